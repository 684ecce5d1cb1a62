"""Rows from judgements: class names, thresholds and p-values. Imports no torch.

`Judge` is the interface of a detector for scoring. An artifact with its model has it, and so has an exported file.
"""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from negprompt_cli.data.results.rowfile import Row
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.judgement import Judgements
from negprompt_cli.engine.metrics.conformal import p_values
from negprompt_cli.errors import UsageError


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The facts that turn scores into verdicts, and their sources.

    `score`: name of the ID score. `threshold`: images with a lower score are OOD; None for no threshold. `by_class`:
    thresholds of predicted classes that have their own. `calibration_scores`: (n,) ascending scores of the held-out ID
    images; None if the score is not the calibrated one. `calibrated_for`: the score that the prompts are calibrated for,
    or None. `prompts_sha256`, `weights_sha256`: digests of the artifact (empty for none) and of the weights. `exported`:
    whether an exported file fixes all this.
    """

    classes: tuple[ClassLabel, ...]
    score: str
    threshold: float | None
    by_class: Mapping[int, float] = field(default_factory=dict)
    calibration_scores: npt.NDArray[np.float64] | None = None
    calibrated_for: str | None = None
    prompts_sha256: str = ""
    weights_sha256: str = ""
    exported: bool = False

    def with_threshold(self, threshold: float | None) -> "Verdicts":
        """The same with another threshold, for all classes; None changes nothing.

        Raises:
            UsageError: the threshold is not finite.
        """
        if threshold is None:
            return self
        if not math.isfinite(threshold):
            raise UsageError(
                f"The threshold {threshold} is not a finite number, so all images would get the same verdict."
            )
        return replace(self, threshold=threshold, by_class={})

    def rows(self, paths: Sequence[Path], errors: Sequence[str | None], judged: Judgements | None) -> list[Row]:
        """A row for each of b images, in order.

        Args:
            paths: the b image files.
            errors: why an image could not be read; None for each of the g readable ones.
            judged: judgements of the g readable images, in order; None if there are none.
        """
        p = None
        if judged is not None and self.calibration_scores is not None:
            p = p_values(judged.scores, self.calibration_scores)
        rows, place = [], 0
        for path, error in zip(paths, errors, strict=True):
            if judged is None or error is not None:
                rows.append(Row(str(path), error=error))
            else:
                rows.append(self._row(path, judged, place, None if p is None else float(p[place])))
                place += 1
        return rows

    def _row(self, path: Path, judged: Judgements, i: int, p_value: float | None) -> Row:
        prediction = int(judged.predictions[i])
        label = self.classes[prediction]
        score = float(judged.scores[i])
        nearest = similarity = None
        if judged.negatives is not None and judged.similarities is not None:
            owner, number = judged.negatives[i].tolist()
            nearest = f"{self.classes[owner].name} #{number + 1}"
            similarity = float(judged.similarities[i])
        return Row(
            path=str(path),
            prediction=label.key,
            prediction_name=label.name,
            probability=float(judged.probabilities[i]),
            score=score,
            p_value=p_value,
            is_ood=None if self.threshold is None else score < self.by_class.get(prediction, self.threshold),
            nearest_negative=nearest,
            negative_similarity=similarity,
        )


def one_class_decisions(classes: Sequence[ClassLabel]) -> tuple[Decision, ...]:
    """The message about predictions with a single class."""
    if len(classes) > 1:
        return ()
    message = (
        "There is only one class, so it is predicted for every image with probability 1. Use the score to compare "
        "images."
    )
    return (Decision("few-classes", message, {"classes": 1}),)


class Judge(Protocol):
    """A detector that judges image files."""

    @property
    def verdicts(self) -> Verdicts:
        """Classes, score and thresholds."""

    def stream(self, paths: Iterable[Path]) -> Generator[list[Row], None, None]:
        """Rows of images, in batches and in order, while `paths` is still being listed.

        Raises:
            UsageError: the configured decoder cannot be used.
        """
