"""Reading evaluation documents ("negprompt/evaluation/1") back, believed only after validation."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from negprompt_cli.data.results.runs import EVALUATION
from negprompt_cli.errors import UsageError

SCHEMA = "negprompt/evaluation/1"
AVERAGE = "average"
MAX_BYTES = 64 << 20


class _Part(BaseModel):
    # What other versions add is kept and ignored.
    model_config = ConfigDict(extra="allow", frozen=True)


class Model(_Part):
    """The model evaluated."""

    name: str
    pretrained: str | None
    weights_sha256: str


class PromptFacts(_Part):
    """The artifact evaluated."""

    path: str
    sha256: str
    kind: str
    loss: str | None
    negatives: int
    floor_exponent: float | None = None
    seed: int
    shots: int | None = None
    context: int | None = None
    learned_on_classes: int | None = None


class IdFacts(_Part):
    """The ID images."""

    name: str
    images: int
    classes: int
    accuracy: float
    accuracy_std: float | None = None
    files_sha256: str | None = None


class OodFacts(_Part):
    """The images of one OOD set."""

    images: int
    files_sha256: str | None = None


class SeedFacts(_Part):
    """One of the seeds that were averaged over."""

    seed: int
    path: str
    sha256: str


class Row(_Part):
    """One score on one OOD set; fractions."""

    ood: str
    images: int
    score: str
    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95_id_positive: float
    fpr95_ood_positive: float
    oscr: float
    detection_error: float | None = None
    autc: float | None = None
    std: dict[str, float | None] | None = None
    ci: dict[str, tuple[float, float]] | None = None


class EvaluationDocument(_Part):
    """One evaluation, of one artifact or of one artifact per seed."""

    schema_: str
    limited: bool
    model: Model
    prompts: PromptFacts
    id: IdFacts
    ood: dict[str, OodFacts] = {}
    seeds: tuple[SeedFacts, ...] = ()
    temperature: float | None = None
    template: str | None = None
    precision: str | None = None
    versions: dict[str, str] = {}
    rows: tuple[Row, ...]

    @property
    def ood_names(self) -> list[str]:
        """Names of the OOD sets, in order, without the average."""
        return list(dict.fromkeys(row.ood for row in self.rows if row.ood != AVERAGE))

    @property
    def scores(self) -> list[str]:
        """Names of the scores, in order."""
        return list(dict.fromkeys(row.score for row in self.rows))

    @property
    def seed_list(self) -> list[int]:
        """The seeds behind the figures."""
        return [s.seed for s in self.seeds] or [self.prompts.seed]

    @property
    def provenance(self) -> dict[str, Any]:
        """What the figures come from: sha256 of the weights and of the artifacts, by seed, and the versions."""
        return {
            "weights_sha256": self.model.weights_sha256,
            "prompts_sha256": [s.sha256 for s in self.seeds] or [self.prompts.sha256],
            "versions": self.versions,
        }

    def row(self, score: str, ood: str) -> Row | None:
        """The row of a score and an OOD set (or 'average'), if there is one."""
        return next((row for row in self.rows if row.score == score and row.ood == ood), None)


def evaluation_path(run: Path) -> Path:
    """The evaluation document of a run folder, or the document itself.

    Raises:
        UsageError: there is none.
    """
    path = run / EVALUATION if run.is_dir() else run
    if not path.is_file():
        raise UsageError(
            f"No evaluation at {path}. Give a run folder that holds {EVALUATION}, or the JSON file of an evaluation.",
            remedy="evaluate",
        )
    return path


def load_evaluation(path: Path) -> EvaluationDocument:
    """Read an evaluation document.

    Raises:
        UsageError: not readable, not JSON, or not an evaluation; names the file and the field.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than 64 MiB, so not an evaluation.")
        values: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as an evaluation ({error}).") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise UsageError(f"{path} is not an evaluation of schema {SCHEMA} (found: {schema or 'none'}).")
    try:
        return EvaluationDocument.model_validate({**values, "schema_": schema})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path} is not a sound evaluation: {place}: {first['msg']}.") from None
