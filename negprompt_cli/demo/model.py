"""The packed small CLIP: one archive and the facts about it, unpacked to a folder for open_clip's `local-dir:` form.

The archive `model/small-clip.zip` holds the three files of `MEMBERS`; `model/small-clip.yaml` records its sha256 and
how it was trained. Weights are fp16; rows of the token embedding that no caption used are zero, so 49408 rows pack
small.
"""

import hashlib
import io
import os
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from negprompt_cli.data.files.atomic import atomic_folder
from negprompt_cli.errors import NegPromptError, UsageError

ARCHIVE = "small-clip.zip"
FACTS = "small-clip.yaml"
CONFIG, WEIGHTS, TRAINING = MEMBERS = ("open_clip_config.json", "open_clip_model.safetensors", "training.json")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class TrainingRecord(BaseModel):
    """How the model was made: enough to make it again.

    Attributes:
        command: the command line.
        seed: of the images, the captions, the initial weights and the order of the batches.
        steps, batch, images: optimiser steps, image-caption pairs in each, distinct images drawn.
        seconds, threads: wall time of the run and torch threads it had.
        versions: of torch, open_clip and numpy; other versions give other weights.
        loss: mean contrastive loss of the last 100 steps, nats.
        logit_scale: exp of the learned logit scale.
        accuracy: zero-shot, "a photo of a {}.", on freshly drawn images: among the ID names and among all names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str
    seed: int
    steps: PositiveInt
    batch: PositiveInt
    images: PositiveInt
    seconds: float
    threads: PositiveInt
    versions: dict[str, str]
    loss: float
    logit_scale: float
    accuracy: dict[str, Fraction]


class ModelFacts(BaseModel):
    """The content of `small-clip.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    archive_sha256: Sha256
    training: TrainingRecord


def packed_model_folder() -> Path:
    """Return the folder of the package that holds the archive and its facts."""
    return Path(str(files("negprompt_cli.demo").joinpath("model")))


def load_facts(packed: Path | None = None) -> ModelFacts:
    """Load and validate the facts of a packed model (default: the one the package ships).

    Raises:
        NegPromptError: the facts are missing or damaged.
    """
    path = (packed or packed_model_folder()) / FACTS
    try:
        return ModelFacts.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise NegPromptError(f"{path} is missing or damaged; reinstall negprompt: {error}") from error


def pack_model(folder: Path, packed: Path, *, training: TrainingRecord) -> None:
    """Pack an open_clip folder holding `MEMBERS` into the archive and facts of the folder `packed`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in MEMBERS:
            # A ZipInfo's fixed date keeps the archive the same for the same files.
            archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED, 9)
    facts = ModelFacts(archive_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(), training=training)
    packed.mkdir(parents=True, exist_ok=True)
    _write(packed / ARCHIVE, buffer.getvalue())
    _write(packed / FACTS, yaml.safe_dump(facts.model_dump(), sort_keys=False).encode())


def unpack_model(folder: Path, *, packed: Path | None = None) -> Path:
    """Unpack the small CLIP to `folder`, which appears complete or not at all, and return it for `local-dir:`.

    A folder that already holds exactly these files is returned as it is.

    Args:
        folder: absent, empty, or made by an earlier call.
        packed: folder of the archive and its facts; default, the model that the package ships.

    Raises:
        NegPromptError: the archive is missing, its sha256 is not the recorded one, or its members are not `MEMBERS`.
        UsageError: `folder` is a file, or holds anything else.
    """
    contents = _read_archive(packed or packed_model_folder())
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the demonstration model.")
    if folder.is_dir() and any(folder.iterdir()):
        present = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        if present != contents or len(present) != sum(1 for _ in folder.iterdir()):
            raise UsageError(f"{folder} holds something else than the demonstration model; empty it or name another.")
        return folder
    with atomic_folder(folder) as temporary:
        for name, content in contents.items():
            (temporary / name).write_bytes(content)
    return folder


def _read_archive(packed: Path) -> dict[str, bytes]:
    path = packed / ARCHIVE
    expected = load_facts(packed).archive_sha256
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NegPromptError(f"the packed model {path} cannot be read; reinstall negprompt: {error}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise NegPromptError(
            f"the packed model {path} is damaged: its sha256 is {found}, expected {expected}; reinstall negprompt."
        )
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        if sorted(archive.namelist()) != sorted(MEMBERS):
            raise NegPromptError(f"the packed model {path} holds {archive.namelist()}, expected {list(MEMBERS)}.")
        return {name: archive.read(name) for name in MEMBERS}


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
