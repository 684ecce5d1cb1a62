"""Detectors exported as ONNX: their metadata, and opening them with onnxruntime, without torch.

A detector takes preprocessed pixels (B, 3, H, W) with any B. It returns class probabilities (B, K), ID scores (B,) and
is_ood (B,) and, with negative prompts, the nearest of them and its cosine, (B,) each. Its metadata, one JSON text under
`KEY`, have everything else that judging images needs, so no other file is necessary.
"""

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from negprompt_cli import schemas
from negprompt_cli.data.encoding.preprocessing import Preprocessing
from negprompt_cli.data.files.onnx_session import open_session
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.engine.judgement import INPUT, NEGATIVE_OUTPUTS, OUTPUTS, Judgements
from negprompt_cli.engine.model_identity import ModelIdentity
from negprompt_cli.errors import UsageError, first_fault, first_line

KEY = "negprompt"
"""The key of the metadata in a file."""
SUFFIX = ".onnx"


class ExportMetadata(BaseModel):
    """The metadata of a file.

    `versions`: versions of the libraries that made it. `prompts_sha256`: digest of the artifact. `negatives`: negatives per
    class. `temperature`: tau of the score, on cosines. `threshold`, `by_class` (by class key) and `calibration_scores`
    (ascending) are set if the score has a threshold; `calibrated_for` is the score for which the artifact was calibrated.
    `weights`: the type of the stored weights; all computations use float32.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    versions: dict[str, str]
    model: ModelIdentity
    prompts_sha256: str
    preprocessing: Preprocessing
    classes: tuple[ClassLabel, ...] = Field(min_length=1)
    negatives: int
    score: str
    temperature: float
    threshold: float | None
    by_class: dict[str, float]
    calibrated_for: str | None
    calibration_scores: tuple[float, ...] | None
    weights: Literal["float32", "float16"]

    def text(self) -> str:
        """Return the metadata as text for a file."""
        return json.dumps({"schema": schemas.EXPORT, **self.model_dump(mode="json")}, ensure_ascii=False)


@dataclass(frozen=True, eq=False)
class ExportedDetector:
    """An open file; `run` takes named inputs and returns all outputs by name."""

    path: Path
    metadata: ExportMetadata
    run: Callable[[dict[str, Any]], dict[str, NDArray[Any]]]

    def judge(self, pixels: NDArray[np.float32]) -> Judgements:
        """Judge preprocessed images (B, 3, H, W); several threads may call it at once."""
        found = self.run({INPUT: pixels})
        probabilities = found["probabilities"]
        pairs = similarities = None
        if self.metadata.negatives:
            place, similarity = (found[name] for name in NEGATIVE_OUTPUTS)
            pairs = np.stack(np.divmod(place, self.metadata.negatives), axis=1)
            similarities = similarity.astype(np.float64)
        return Judgements(
            probabilities.argmax(axis=1),
            probabilities.max(axis=1).astype(np.float64),
            found["score"].astype(np.float64),
            pairs,
            similarities,
        )


def open_exported(path: Path, opening: "Future[Any] | None" = None) -> ExportedDetector:
    """Open a file with onnxruntime on the CPU, each call on one thread.

    Args:
        path: the file.
        opening: its session, if opening has already started in the background.

    Raises:
        UsageError: the file is missing, onnxruntime is not installed, or this package did not export the file.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", remedy="export")
    try:
        session = opening.result() if opening else open_session(path)
        text = session.get_modelmeta().custom_metadata_map.get(KEY, "{}")
    except ImportError:
        raise UsageError(f"{path} needs onnxruntime, which is not installed. Run `pip install onnxruntime`.") from None
    except Exception as error:
        raise UsageError(f"{path} is not a readable ONNX file ({first_line(error)}).", remedy="export") from None
    try:
        found = json.loads(text)
        if found.get("schema") != schemas.EXPORT:
            raise ValueError("no such schema")
        metadata = ExportMetadata.model_validate(found)
    except ValidationError as error:
        raise UsageError(
            f"{path} was exported by another version of negprompt, or was changed later: {first_fault(error)}.",
            remedy="export",
        ) from None
    except (ValueError, AttributeError):
        raise UsageError(
            f"{path} is not a detector that this version of negprompt exported.", remedy="export"
        ) from None
    names = [output.name for output in session.get_outputs()]
    if missing := {*OUTPUTS, *(NEGATIVE_OUTPUTS if metadata.negatives else ())} - set(names):
        raise UsageError(
            f"{path} was changed after its export: it has no output {sorted(missing)[0]}.", remedy="export"
        )
    return ExportedDetector(path, metadata, partial(_run, session, names))


def _run(session: Any, names: list[str], inputs: dict[str, Any]) -> dict[str, NDArray[Any]]:
    return dict(zip(names, session.run(names, inputs), strict=True))
