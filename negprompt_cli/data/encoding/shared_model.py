"""The device and the model of every rank: chosen and loaded alike, and checked to be alike.

Rank 0 decides; the others take the same kind of device and the same arithmetic, and have to find the same weights, wherever
they find them.
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
"""The number under which a rank keeps its own `Compute` among its things."""
_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def agree_on_compute(team: Team, device: str, precision: str) -> tuple[Compute, tuple[str, ...]]:
    """Choose rank 0's device and precision, and have every other rank choose the like.

    Args:
        team: the team.
        device: as `choose_compute` takes it; each rank takes the device of its local rank.
        precision: the same.

    Returns:
        What rank 0 computes with, and '<host> <device>' of each rank.

    Raises:
        UsageError: a rank has no such device, or another version of this package.
    """
    compute = choose_compute(device, precision=precision, ranks=team.ranks)
    chosen = compute.device
    kind = chosen.type if chosen.index is None else f"{chosen.type}:{chosen.index - team.ranks.local_rank}"
    team.call("device", {"device": kind, "precision": _PRECISIONS[compute.dtype]})
    answers = [answer.document for answer in team.answers()]
    for rank, answer in zip(team.others, answers, strict=True):
        if answer["version"] != __version__:
            raise UsageError(
                f"rank {rank} ({answer['host']}) runs negprompt {answer['version']}, rank 0 {__version__}. Install the same "
                "version everywhere."
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
        UsageError, NegPromptError: as `load_clip`, on any rank; a rank has other weights than rank 0.
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
                f"{clip.identity.name} has weights {theirs['weights_sha256'][:12]} at rank {rank} ({theirs['host']}) and "
                f"{clip.identity.weights_sha256[:12]} at rank 0. Put the same files on every machine."
            )
    made = SharedClip.of(clip, shared)
    weakref.finalize(made, team.drop, shared.number).atexit = False
    return made


def answer_model(team: Team, call: Message, things: dict[int, Any]) -> Message | None:
    """What a rank other than 0 does at a call about device or model; `use` has no answer.

    Args:
        team: the team.
        call: the call.
        things: this rank's things by number, to which it adds.

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
