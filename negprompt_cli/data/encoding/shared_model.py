"""Choose the device and load the model on every rank, and check that they agree.

Rank 0 decides. The other ranks use the same kind of device and the same precision, and must have the same weights.
"""

import socket
import weakref
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from negprompt_cli._version import __version__
from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.engine.devices import Compute, choose_compute
from negprompt_cli.engine.parallel.rank_calls import Message, Shared, Team
from negprompt_cli.engine.parallel.shared_clip import SharedClip
from negprompt_cli.errors import UsageError

COMPUTE = 0
"""The number of a rank's own `Compute` among its objects."""
_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def agree_on_compute(team: Team, device: str, precision: str) -> tuple[Compute, tuple[str, ...]]:
    """Choose rank 0's device and precision, and make every other rank choose the same kind.

    Args:
        team: the team.
        device: as for `choose_compute`; each rank uses the device of its local rank.
        precision: as for `choose_compute`.

    Returns:
        Rank 0's `Compute`, and '<host> <device>' of each rank.

    Raises:
        UsageError: a rank has no such device, or has another version of this package.
    """
    compute = choose_compute(device, precision=precision, ranks=team.ranks)
    chosen = compute.device
    kind = chosen.type if chosen.index is None else f"{chosen.type}:{chosen.index - team.ranks.local_rank}"
    team.call("device", {"device": kind, "precision": _PRECISIONS[compute.dtype]})
    answers = [answer.document for answer in team.answers()]
    for rank, answer in zip(team.others, answers, strict=True):
        if answer["version"] != __version__:
            raise UsageError(
                f"rank {rank} ({answer['host']}) runs negprompt {answer['version']}, but rank 0 runs {__version__}. Install "
                "the same version everywhere."
            )
    team.call("use")
    team.use(chosen)
    team.settle()
    places = [(socket.gethostname(), str(chosen)), *((answer["host"], answer["device"]) for answer in answers)]
    machines = len(Counter(host for host, _ in places))
    where = f"{machines} machines" if machines > 1 else "one machine"
    reason = f"{compute.reason}; {team.ranks.size} processes on {where}, over {team.backend}"
    return replace(compute, reason=reason), tuple(f"{host} {device}" for host, device in places)


def load_shared(team: Team, config: ModelConfig, compute: Compute) -> SharedClip:
    """Load a model on every rank.

    Raises:
        UsageError, NegPromptError: `load_clip` fails on a rank, or a rank has other weights than rank 0.
    """
    shared = Shared(team, team.number())
    team.call("model", {"number": shared.number, "config": config.model_dump(mode="json")})
    try:
        clip = load_clip(config, compute)
    except BaseException:
        team.catch_up()
        raise
    for rank, answer in zip(team.others, team.answers(), strict=True):
        theirs = answer.document
        if theirs["weights_sha256"] != clip.identity.weights_sha256:
            raise UsageError(
                f"{clip.identity.name} has weights {theirs['weights_sha256'][:12]} on rank {rank} ({theirs['host']}), but "
                f"{clip.identity.weights_sha256[:12]} on rank 0. Put the same files on every machine."
            )
    made = SharedClip.of(clip, shared)
    weakref.finalize(made, team.drop, shared.number).atexit = False
    return made


def answer_model(team: Team, call: Message, things: dict[int, Any]) -> Message | None:
    """Execute a call about device or model on a rank other than 0.

    Args:
        team: the team.
        call: the call.
        things: this rank's objects by number; new ones are added.

    Returns:
        The answer; None for `use`, which has none.

    Raises:
        UsageError, NegPromptError: there is no such device or model here.
    """
    asked, host = call.document, socket.gethostname()
    if asked["call"] == "use":
        team.use(things[COMPUTE].device)
        return None
    if asked["call"] == "device":
        compute = choose_compute(asked["device"], precision=asked["precision"], ranks=team.ranks)
        things[COMPUTE] = compute
        return Message({"host": host, "device": str(compute.device), "version": __version__})
    clip = load_clip(ModelConfig.model_validate(asked["config"]), things[COMPUTE])
    things[asked["number"]] = clip
    return Message({"host": host, "weights_sha256": clip.identity.weights_sha256})
