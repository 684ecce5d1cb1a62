"""Prompt artifacts: the result of a training step as one self-contained safetensors file.

Tensors: `positive` (1, M, D) or (1, K, M, D) and, with negatives, `negative` (p, M, D) or (p, K, M, D), in the units of the
model's token embeddings; for the default score `id_*`, the statistics of ID images; with a threshold `calibration_scores`
(n,) float64, the ID scores of the held-out images on which it was chosen.
Metadata (strings): schema, versions, kind, classes, model identity, resolved configuration, seed, the parents' sha256, a
summary of the training, after calibration the threshold, and a digest of all this, because the parts of an edited or
damaged file may still be consistent. Nothing in a file is executed, and a file is used only if its shapes and classes are
consistent. Text features are not stored, because contexts and model determine them. Nothing that changes between equal
runs, such as the time, is stored.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from negprompt_cli import schemas
from negprompt_cli.config import Config, parse_config
from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.data.results.checkpoints import content_digest
from negprompt_cli.data.results.provenance import versions
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.engine.model_identity import ModelIdentity
from negprompt_cli.engine.scores.id_statistics import IdStatistics
from negprompt_cli.errors import UsageError, first_fault, first_line
from negprompt_cli.loss_presets import ScoreForm

MAX_HEADER_BYTES = 64 << 20
MAX_BYTES = 4 << 30
"""Largest artifact; class-specific contexts of 21,000 classes are smaller."""
METADATA = (
    *("schema", "versions", "kind", "classes", "model", "config", "seed", "learned_on", "parents", "training"),
    "calibration",
)
"""The metadata that describe the tensors; a file may also have metadata of other programs."""
DIGEST = "content_sha256"
"""The key of the digest of the tensors and these metadata."""
Kind = Literal["positive", "negative", "transferred"]


class Parent(BaseModel):
    """An artifact from which this one was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    sha256: str


class TrainingSummary(BaseModel):
    """The results of a training, and everything they depend on.

    `images`: number of training images. `files_sha256`: digest of their relative paths and sizes, and of those of skipped
    images; empty for features without files. `epoch`: the epoch that was kept, with its `terms` of the loss and the ID
    `accuracy` in training.
    `features_sha256`: digest of the training features; `device`: the processor; `versions`: versions of the libraries; these
    three are empty if they were not recorded. `start_loss`, `end_loss`: loss over all training images and classes;
    `outcome`: why the training stopped; these are null if they were not recorded. `self_check`: AUROC and FPR95 by side and
    score of the criterion that uses only ID data (`engine.criterion`); for stage 2 only, null if there are too few data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    images: int
    files_sha256: str
    epoch: int
    terms: dict[str, float]
    accuracy: float
    features_sha256: str = ""
    device: str = ""
    versions: dict[str, str] = {}
    start_loss: float | None = None
    end_loss: float | None = None
    outcome: Literal["tolerance", "minimum", "epochs"] | None = None
    self_check: dict[str, dict[str, dict[str, float]]] | None = None


class Calibration(BaseModel):
    """A threshold on an ID score, chosen on held-out ID images: an image is ID if its score is at least `threshold`.

    `score`, `temperature`, `template` and `next_classes` (of logit-gap) define the score. `acceptance`: the requested share
    of ID images to accept; `accepted` of the `images` held-out images are accepted. [`low`, `high`]: the interval, at
    `confidence`, of the share of new ID images that are accepted. `data` and `files_sha256` identify the held-out images.
    `by_class`: thresholds of single predicted classes, by class key. `scores`: the ascending scores of the held-out images,
    from which p-values are computed; they are stored as a tensor of the artifact and not in the JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    score: str
    temperature: Annotated[float, Field(gt=0)]
    template: str
    next_classes: Annotated[int, Field(ge=1)] | None = None
    threshold: float
    acceptance: Annotated[float, Field(gt=0, lt=1)]
    accepted: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=1)]
    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(ge=0, le=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    data: str
    files_sha256: str
    by_class: dict[str, float] = {}
    scores: tuple[float, ...] = Field(default=(), exclude=True, repr=False)

    @property
    def settings(self) -> dict[str, Any]:
        """The evaluation settings of the score."""
        return self.model_dump(include={"temperature", "template", "next_classes"})


@dataclass(frozen=True)
class Prompts:
    """A prompt artifact in memory.

    `positive`: (1, M, D) or (1, K, M, D). `negative`: (p, M, D), (p, K, M, D) or None. `learned_on`: number of classes in
    the training of the contexts, 0 for zero-shot. `calibration`: the threshold, if there is one. `sha256`: digest of the
    file that was read or written. `id_statistics`: statistics of ID images for the default score; None for the paper's
    score. `written_with`: the versions of packages that wrote the file; empty if it does not state them.
    """

    kind: Kind
    positive: Tensor
    negative: Tensor | None
    classes: tuple[ClassLabel, ...]
    model: ModelIdentity
    config: Config
    learned_on: int
    parents: tuple[Parent, ...] = ()
    training: tuple[TrainingSummary, ...] = ()
    calibration: Calibration | None = None
    id_statistics: IdStatistics | None = None
    sha256: str = field(default="", compare=False)
    written_with: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def names(self) -> list[str]:
        """Class names as words, in label order."""
        return [c.name for c in self.classes]

    @property
    def class_specific(self) -> bool:
        """Whether each class has its own contexts."""
        return self.positive.dim() == 4

    @property
    def negatives_per_class(self) -> int:
        """Number p of negatives per class."""
        return 0 if self.negative is None else int(self.negative.shape[0])

    @property
    def score_form(self) -> ScoreForm:
        """The form of the score `negprompt` with these prompts."""
        return "paper" if self.id_statistics is None else "standardised"

    def parent(self) -> Parent:
        """Return this artifact as a parent of another."""
        return Parent(kind=self.kind, sha256=self.sha256)

    def transferred(self, classes: tuple[ClassLabel, ...], id_statistics: IdStatistics | None) -> "Prompts":
        """Return the same contexts with other class names. The threshold is removed, because it fits the old names only.

        Args:
            classes: the new classes.
            id_statistics: the artifact's ID statistics, adapted to the new names.
        """
        return replace(
            self,
            kind="transferred",
            classes=classes,
            parents=(self.parent(),),
            calibration=None,
            id_statistics=id_statistics,
            sha256="",
        )


def save_prompts(prompts: Prompts, path: Path, *, overwrite: bool = True) -> Prompts:
    """Write an artifact atomically, and return it with its digest and the versions that wrote it.

    Raises:
        NegPromptError: the file cannot be written.
        UsageError: `overwrite` is False and the file exists.
    """
    written = replace(prompts, written_with=versions())
    data = artifact_bytes(written)
    atomic_write_bytes(path, data, replace=overwrite)
    return replace(written, sha256=hashlib.sha256(data).hexdigest())


def sealed(prompts: Prompts) -> Prompts:
    """Return an artifact with the digest and the versions that `save_prompts` would give it now."""
    written = replace(prompts, written_with=versions())
    return replace(written, sha256=hashlib.sha256(artifact_bytes(written)).hexdigest())


def artifact_bytes(prompts: Prompts) -> bytes:
    """Return the bytes of an artifact's file; equal content and `written_with` give equal bytes."""
    tensors = {"positive": prompts.positive.detach().cpu().float().contiguous()}
    if prompts.negative is not None:
        tensors["negative"] = prompts.negative.detach().cpu().float().contiguous()
    if prompts.id_statistics is not None:
        for f in fields(IdStatistics):
            tensors[f"id_{f.name}"] = getattr(prompts.id_statistics, f.name).detach().cpu().float().contiguous()
    metadata = {
        "schema": schemas.PROMPTS,
        "versions": json.dumps(dict(prompts.written_with)),
        "kind": prompts.kind,
        "classes": json.dumps([asdict(c) for c in prompts.classes], ensure_ascii=False),
        "model": json.dumps(asdict(prompts.model)),
        "config": prompts.config.to_yaml(),
        "seed": str(prompts.config.seed),
        "learned_on": str(prompts.learned_on),
        "parents": json.dumps([p.model_dump() for p in prompts.parents]),
        "training": json.dumps([t.model_dump() for t in prompts.training]),
    }
    if prompts.calibration is not None:
        metadata["calibration"] = prompts.calibration.model_dump_json()
        tensors["calibration_scores"] = torch.tensor(prompts.calibration.scores, dtype=torch.float64)
    return _canonical(save(tensors, {**metadata, DIGEST: content_digest(metadata, tensors)}))


def load_prompts(path: Path) -> Prompts:
    """Read an artifact.

    Raises:
        UsageError: the file is missing, truncated, not an artifact, of another version, or inconsistent.
    """
    if not path.is_file():
        raise UsageError(f"No prompt artifact at {path}.")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UsageError(f"{path} is not a prompt artifact: it has {size} bytes.")
        with path.open("rb") as file:
            (header,) = struct.unpack("<Q", file.read(8))
            if header > MAX_HEADER_BYTES:
                raise UsageError(f"{path} is not a prompt artifact: it does not begin like a safetensors file.")
            file.seek(0)
            # The file is read only once, so the digest is that of the data in use.
            data = file.read()
        # Tensors are cloned, because tensors in the file may be unaligned, and products then round differently.
        tensors = {name: tensor.clone() for name, tensor in load(data).items()}
        metadata = json.loads(data[8 : 8 + header]).get("__metadata__") or {}
    except (SafetensorError, OSError, struct.error, ValueError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not a readable prompt artifact ({error}). It may be truncated. Copy it again, or make it again."
        ) from None
    if (schema := metadata.get("schema", "none")[:40]) != schemas.PROMPTS:
        if schema.startswith(schemas.PROMPTS.rpartition("/")[0] + "/"):
            raise _of_another_version(path, f"its schema is {schema}, and {schemas.PROMPTS} is read")
        raise UsageError(f"{path} is not a prompt artifact of schema {schemas.PROMPTS} (found: {schema}).")
    try:
        prompts = Prompts(
            kind=_read(Kind, {"kind": json.dumps(metadata["kind"])}, "kind"),
            positive=tensors["positive"],
            negative=tensors.get("negative"),
            classes=tuple(_read(list[ClassLabel], metadata, "classes")),
            model=_read(ModelIdentity, metadata, "model"),
            config=parse_config(metadata["config"], "configuration"),
            learned_on=_read(int, metadata, "learned_on"),
            parents=tuple(_read(list[Parent], metadata, "parents")),
            training=tuple(_read(list[TrainingSummary], metadata, "training")),
            calibration=(
                _calibration(_read(Calibration, metadata, "calibration"), tensors["calibration_scores"])
                if "calibration" in metadata
                else None
            ),
            id_statistics=_id_statistics(tensors),
            sha256=hashlib.sha256(data).hexdigest(),
            written_with=_read(dict[str, str], {"versions": "{}", **metadata}, "versions"),
        )
    except KeyError as error:
        raise _of_another_version(path, f"{error.args[0]} is missing") from None
    except UsageError as error:
        # The first sentence: advice about keys of a configuration is for people who write one.
        first = first_line(error).partition(". ")[0]
        raise _of_another_version(path, first.rstrip(".")) from None
    except ValueError as error:
        raise UsageError(f"{path} is not a valid prompt artifact: {error}.") from None
    _check_shapes(prompts, path)
    written = {key: value for key, value in metadata.items() if key in METADATA}
    if metadata.get(DIGEST) != content_digest(written, tensors):
        raise UsageError(
            f"{path} was changed after it was written: its content does not fit its checksum. Copy it again, or train "
            "again."
        )
    return prompts


def _read(kind: Any, metadata: Mapping[str, str], key: str) -> Any:
    """Read a value of the metadata from its JSON.

    Raises:
        KeyError: the value is missing.
        UsageError: the value has another type.
    """
    try:
        return TypeAdapter(kind).validate_json(metadata[key])
    except ValidationError as error:
        raise UsageError(f"{key}, {first_fault(error)}") from None


def _of_another_version(path: Path, reason: str) -> UsageError:
    """Make the error for an artifact whose content differs from what this version writes."""
    return UsageError(
        f"{path} was written by another version of negprompt (probably an older one), or was changed later: {reason}.",
        remedy="make-again",
    )


def _id_statistics(tensors: Mapping[str, Tensor]) -> IdStatistics | None:
    """Return the ID statistics among a file's tensors, if it has them.

    Raises:
        KeyError: some of them are missing.
        ValueError: they are inconsistent.
    """
    names = [f.name for f in fields(IdStatistics)]
    if not any(f"id_{name}" in tensors for name in names):
        return None
    return IdStatistics(**{name: tensors[f"id_{name}"] for name in names})


def _calibration(made: Calibration, scores: Tensor) -> Calibration:
    """Return the calibration of a file with its scores.

    Raises:
        ValueError: the scores are not finite, not ascending, or not one for each held-out image.
    """
    if scores.shape != (made.images,) or not bool(torch.isfinite(scores).all()) or bool((scores.diff() < 0).any()):
        raise ValueError(f"its calibration scores are not {made.images} finite numbers in ascending order")
    return made.model_copy(update={"scores": tuple(scores.tolist())})


def check_model(prompts: Prompts, model: ModelIdentity, width: int, path: Path) -> None:
    """Check that prompts fit the model.

    Raises:
        UsageError: the weights or the width of contexts differ; the message names both models.
    """
    if prompts.model.weights_sha256 != model.weights_sha256:
        raise UsageError(
            f"{path} was learned for {prompts.model}, but this model is {model}.", remedy="model-of-artifact"
        )
    if prompts.positive.shape[-1] != width:
        raise UsageError(
            f"{path} has contexts of width {prompts.positive.shape[-1]}, but the model needs width {width}."
        )


def _check_shapes(prompts: Prompts, path: Path) -> None:
    positive, negative, classes = prompts.positive, prompts.negative, len(prompts.classes)

    def wrong(what: str) -> UsageError:
        return UsageError(f"{path} is not a valid prompt artifact: {what}.")

    if not classes:
        raise wrong("it has no classes")
    if len({c.key for c in prompts.classes}) != classes:
        raise wrong("a class key occurs twice")
    if prompts.kind != "positive" and negative is None:
        raise wrong("its negatives are missing")
    for name, tensor in (("positive", positive), ("negative", negative)):
        if tensor is None:
            continue
        if tensor.dim() not in (3, 4) or 0 in tensor.shape or not tensor.is_floating_point():
            raise wrong(f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype}")
        if tensor.dim() == 4 and tensor.shape[1] != classes:
            raise wrong(f"{name} is for {tensor.shape[1]} classes, but {classes} are listed")
        if not torch.isfinite(tensor).all():
            raise wrong(f"{name} has values that are not finite")
        if tensor.shape[-1] != positive.shape[-1]:
            raise wrong("positive and negative contexts differ in width")
    if positive.shape[0] != 1:
        raise wrong(f"{positive.shape[0]} positive contexts, not one")


def _canonical(data: bytes) -> bytes:
    """Sort a safetensors file's metadata by key, because the order of the writer differs between runs."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # Tensor data must start at a multiple of eight bytes; the format allows trailing spaces for this purpose.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]
