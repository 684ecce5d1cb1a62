"""The packed small CLIP: an archive and its facts, unpacked to a folder for open_clip's `local-dir:` form.

The archive `model/small-clip.zip` has the three files of `MEMBERS`; `model/small-clip.yaml` has its sha256 and describes the
training. Weights are fp16. Rows of the token embedding that no caption used are zero, so the 49408 rows compress well.
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
    """The training of the model, with everything needed to repeat it.

    Attributes:
        command: the command line.
        seed: random seed of images, captions, initial weights and batch order.
        steps, batch, images: number of optimiser steps, of image-caption pairs per step, and of distinct images.
        seconds, threads: wall time and number of torch threads.
        versions: versions of torch, open_clip and numpy; other versions give other weights.
        loss: mean contrastive loss of the last 100 steps, in nats.
        logit_scale: exp of the learned logit scale.
        accuracy: zero-shot accuracy with "a photo of a {}." on new images, among the ID names and among all names.
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
    """Return the folder of the package that contains the archive and its facts."""
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
        raise NegPromptError(f"{path} is missing or damaged ({error}). Reinstall negprompt.") from error


def pack_model(folder: Path, packed: Path, *, training: TrainingRecord) -> None:
    """Pack an open_clip folder with the files `MEMBERS` into the archive and facts of the folder `packed`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in MEMBERS:
            # A ZipInfo has a fixed date, so equal files give equal archives.
            archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED, 9)
    facts = ModelFacts(archive_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(), training=training)
    packed.mkdir(parents=True, exist_ok=True)
    _write(packed / ARCHIVE, buffer.getvalue())
    _write(packed / FACTS, yaml.safe_dump(facts.model_dump(), sort_keys=False).encode())


def unpack_model(folder: Path, *, packed: Path | None = None) -> Path:
    """Unpack the small CLIP atomically to `folder`, and return the folder for `local-dir:`.

    If the folder already has exactly these files, it is not changed.

    Args:
        folder: a folder that does not exist, is empty, or was made by an earlier call.
        packed: folder of the archive and its facts; None uses the model of the package.

    Raises:
        NegPromptError: the archive is missing, its sha256 is not the recorded one, or its members are not `MEMBERS`.
        UsageError: `folder` is a file, or has other content.
    """
    contents = _read_archive(packed or packed_model_folder())
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file. Choose a folder for the demonstration model.")
    if folder.is_dir() and any(folder.iterdir()):
        present = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        if present != contents or len(present) != sum(1 for _ in folder.iterdir()):
            raise UsageError(
                f"{folder} is not empty and not the demonstration model. Empty it, or choose another folder."
            )
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
        raise NegPromptError(f"The packed model {path} cannot be read ({error}). Reinstall negprompt.") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise NegPromptError(
            f"The packed model {path} is damaged: its sha256 is {found} instead of {expected}. Reinstall negprompt."
        )
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        if sorted(archive.namelist()) != sorted(MEMBERS):
            raise NegPromptError(f"The packed model {path} has {archive.namelist()} instead of {list(MEMBERS)}.")
        return {name: archive.read(name) for name in MEMBERS}


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
