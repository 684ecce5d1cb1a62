"""Results of a detector on held-out ID images: how many have the right class, and how many it accepts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.engine.judgement import Judgements
from negprompt_cli.engine.metrics.conformal import thresholds_of
from negprompt_cli.steps.shared.scorer import Scorer
from negprompt_cli.wording import percent


@dataclass(frozen=True)
class Outcome:
    """Of `images`, `correct` are predicted as their class and `accepted` are accepted as ID (None without a threshold)."""

    images: int
    correct: int
    accepted: int | None

    def shares(self) -> str:
        """Both shares for people: `97.5 % accepted, 95.0 % with the right class`."""
        return f"{self.accepted_share()}, {percent(self.correct / max(1, self.images))} % with the right class"

    def accepted_share(self) -> str:
        """The share that is accepted: `97.5 % accepted`."""
        accepted = None if self.accepted is None else self.accepted / max(1, self.images)
        return "no threshold" if accepted is None else f"{percent(accepted)} % accepted"


def outcome(
    scorer: Scorer, judged: Judgements, labels: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]
) -> Outcome:
    """The outcome of some of n judged images.

    Args:
        scorer: the scorer that judged them; its threshold decides what is accepted.
        judged: n judgements.
        labels: (n,) their classes, as indices of the scorer's classes; -1 for a class that it does not have.
        chosen: (n,) bool or indices, the images to count.
    """
    predictions = judged.predictions[chosen]
    accepted = None
    if scorer.threshold is not None:
        least = thresholds_of(predictions, scorer.threshold, scorer.verdicts.by_class)
        accepted = int((judged.scores[chosen] >= least).sum())
    return Outcome(int(chosen.sum()), int((predictions == labels[chosen]).sum()), accepted)


@dataclass(frozen=True)
class ClassAccuracy:
    """Held-out images of one class: their number, how many are predicted as it, and the most frequent wrong class."""

    images: int
    correct: int
    taken_for: str | None


def by_class(
    predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: Sequence[ClassLabel]
) -> dict[str, ClassAccuracy]:
    """The accuracy of each class that has images, by class key.

    Args:
        predicted: (n,) predicted classes, as indices.
        labels: (n,) the classes.
        classes: the classes that the indices refer to.
    """
    found = {}
    for i, label in enumerate(classes):
        own = predicted[labels == i]
        if len(own):
            wrong = np.bincount(own[own != i], minlength=1)
            taken = classes[int(wrong.argmax())].key if wrong.any() else None
            found[label.key] = ClassAccuracy(len(own), int((own == i).sum()), taken)
    return found
