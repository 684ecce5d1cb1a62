"""Checkpoints: the state of a training as one safetensors file beside the future artifact.

Tensors: `contexts`, `best`, `generator`, and the optimiser's tensors as `memory.NAME` (see `State` of the engine's
training). Metadata (strings): schema; facts, which are all inputs of the training; history, with one report per epoch;
best_epoch; start_loss; and a sha256 over everything, because a flipped bit in a context would not be noticed otherwise.
Nothing in a file is executed.

`steps.resuming` decides when checkpoints are written, and compares their facts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from negprompt_cli import schemas
from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.engine.prompt_learners.training import EpochReport, State
from negprompt_cli.errors import UsageError

MEMORY = "memory."
"""Prefix of the names of an optimiser's tensors."""

Fact = str | int | float | bool | None
Facts = Mapping[str, Fact]
"""The inputs of a training, by name: keys of the configuration, versions, digests."""


class DamagedCheckpoint(UsageError):
    """A checkpoint cannot be used, because its file is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: the state, with tensors on the CPU, and the facts of its training."""

    state: State
    facts: Facts


def checkpoint_path(out: Path) -> Path:
    """Return the path of the checkpoint of artifact `out`: <stem>.checkpoint.safetensors in the same folder."""
    return out.with_name(f"{out.stem}.checkpoint.safetensors")


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically.

    Raises:
        NegPromptError: the file cannot be written.
    """
    state = checkpoint.state
    tensors = {"contexts": state.contexts, "best": state.best, "generator": state.generator}
    tensors |= {f"{MEMORY}{name}": tensor for name, tensor in state.memory.items()}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "schema": schemas.CHECKPOINT,
        "facts": json.dumps(checkpoint.facts),
        "history": json.dumps([asdict(report) for report in state.history]),
        "best_epoch": str(state.best_epoch),
        "start_loss": json.dumps(state.start_loss),
    }
    atomic_write_bytes(path, save(tensors, {**metadata, "sha256": content_digest(metadata, tensors)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedCheckpoint: the file is truncated, changed, or not a checkpoint.
        UsageError: the file has another schema.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} is not a readable checkpoint ({error}).") from None
    schema = metadata.get("schema", "")
    if schema.startswith("negprompt/checkpoint/") and schema != schemas.CHECKPOINT:
        raise UsageError(
            f"{path} has schema {schema}, but this version of negprompt reads {schemas.CHECKPOINT}. "
            "Resume with the version that wrote it.",
            remedy="no-resume",
        )
    if metadata.pop("sha256", None) != content_digest(metadata, tensors):
        raise DamagedCheckpoint(f"{path} is damaged: its checksum is wrong.")
    try:
        state = State(
            contexts=tensors["contexts"],
            memory={n.removeprefix(MEMORY): t for n, t in tensors.items() if n.startswith(MEMORY)},
            best=tensors["best"],
            best_epoch=int(metadata["best_epoch"]),
            generator=tensors["generator"],
            start_loss=float(metadata["start_loss"]),
            history=TypeAdapter(tuple[EpochReport, ...]).validate_python(tuple(json.loads(metadata["history"]))),
        )
        facts = TypeAdapter(dict[str, Fact]).validate_python(json.loads(metadata["facts"]), strict=True)
    except (KeyError, ValidationError, ValueError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path} is not a valid checkpoint ({type(error).__name__}).") from None
    if not _sound(state):
        raise DamagedCheckpoint(f"{path} is not a valid checkpoint: its parts are inconsistent.")
    return Checkpoint(state, facts)


def differences(recorded: Facts, present: Facts) -> list[str]:
    """Return one line, with both values, for each fact of `present` that is missing or different in `recorded`."""
    return [
        f"{name}: {_shown(recorded[name]) if name in recorded else 'not recorded'} in the file, {_shown(value)} now"
        for name, value in present.items()
        if name not in recorded or recorded[name] != value
    ]


def flat_facts(values: Mapping[str, Any], prefix: str = "") -> dict[str, Fact]:
    """Convert nested plain values to dotted names; lists become JSON texts."""
    facts: dict[str, Fact] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            facts |= flat_facts(value, f"{prefix}{name}.")
        else:
            facts[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return facts


def tensor_digest(*tensors: Tensor) -> str:
    """Return the sha256 of the types, shapes and values of tensors, in order; their device does not matter."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def content_digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the metadata and tensors of a safetensors file; their order in the file does not matter."""
    names = sorted(tensors)
    parts = [json.dumps(dict(sorted(metadata.items()))), *names, tensor_digest(*(tensors[name] for name in names))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sound(state: State) -> bool:
    """Whether a training can resume from a state: shapes, types and epochs are consistent, and there is an epoch."""
    shape = state.contexts.shape
    generator = torch.Generator().get_state()
    return (
        all(t.is_floating_point() for t in (state.contexts, state.best, *state.memory.values()))
        and state.best.shape == shape
        and all(t.shape[t.dim() - len(shape) :] == shape for t in state.memory.values())
        and (state.generator.shape, state.generator.dtype) == (generator.shape, generator.dtype)
        and [report.epoch for report in state.history] == list(range(1, len(state.history) + 1))
        and 0 <= state.best_epoch <= len(state.history) > 0
    )


def _shown(value: Fact) -> str:
    """Return a value as text for messages; digests are shortened."""
    if isinstance(value, str) and len(value) == hashlib.sha256().digest_size * 2:
        return value[:12]
    return json.dumps(value, ensure_ascii=False)
