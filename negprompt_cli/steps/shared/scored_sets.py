"""ID and OOD images of a report, with labels, predictions and scores as plain arrays.

They come from a measurement with a model, or from a file of scores that an evaluation saved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from negprompt_cli.data.results.tables import FORMATS, form_of, read_table
from negprompt_cli.engine.metrics.calibration import accepting_threshold
from negprompt_cli.engine.metrics.detection import AcceptanceCurve, acceptance_curve
from negprompt_cli.errors import UsageError

if TYPE_CHECKING:
    from negprompt_cli.steps.shared.measure import Measured, Scored

COLUMNS = ("set", "role", "path", "label", "label_name", "prediction", "prediction_name", "seed")
"""Columns of a file of scores before the scores, which `score_file` writes."""

RECALL = 0.95
"""Share of the ID images that thresholds of a report accept."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScoredSet:
    """n images.

    `paths`: their files. `labels`: (n,) indices of their own classes in `classes`, -1 for none. `classes`: names of the
    set's classes. `predictions`: (n,) indices of ID classes. `scores`: (n,) by name, higher = more ID.
    """

    name: str
    paths: Sequence[Path]
    labels: Labels
    classes: Sequence[str]
    predictions: Labels
    scores: Mapping[str, npt.NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.labels)

    def own(self, image: int) -> str:
        """The name of an image's own class, or of its file if it has none."""
        label = int(self.labels[image])
        return self.classes[label] if label >= 0 else self.paths[image].name


@dataclass(frozen=True, eq=False)
class ScoredSets:
    """ID images and OOD sets. `names`: names of the ID classes. `scores`: names of the scores, the main one first."""

    names: Sequence[str]
    id_set: ScoredSet
    ood_sets: Sequence[ScoredSet]
    scores: Sequence[str]

    @property
    def labelled(self) -> list[tuple[str, ScoredSet]]:
        """All sets with the names that pictures show."""
        return [(f"ID {self.id_set.name}", self.id_set), *((f"OOD {s.name}", s) for s in self.ood_sets)]

    def threshold(self, score: str) -> float:
        """The threshold that accepts 95 % of the ID images."""
        return accepting_threshold(self.id_set.scores[score], RECALL)

    def curve(self, score: str, ood: ScoredSet) -> AcceptanceCurve:
        """How many images of one OOD set and of the ID set each threshold accepts."""
        return acceptance_curve(self.id_set.scores[score], ood.scores[score])


def of_measured(measured: "Measured") -> ScoredSets:
    """The sets of a measurement."""
    names = measured.prompts.names
    return ScoredSets(
        names,
        _of_scored(measured.id_set, names),
        [_of_scored(scored, [c.name for c in scored.encoded.images.classes]) for scored in measured.ood_sets],
        measured.scores,
    )


def _of_scored(scored: "Scored", classes: Sequence[str]) -> ScoredSet:
    images = scored.encoded.images
    return ScoredSet(
        scored.name, images.paths, scored.encoded.labels.numpy(), classes, scored.table.predictions, scored.table.scores
    )


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name, and not an evaluation or a run folder."""
    return path.is_file() and path.suffix.lower().removeprefix(".") in FORMATS


def is_score_file(path: Path) -> bool:
    """Whether a table has scores that an evaluation saved, and not rows that `score` wrote.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        first = next(read_table(path, form_of(path)), None)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read as a table: {error}.") from error
    return first is not None and set(COLUMNS) <= set(first)


def read_score_file(path: Path, main: str | None) -> tuple[ScoredSets, int]:
    """The images of a file of scores; those of the first seed if there are several.

    Args:
        path: CSV, JSON lines or Parquet, by the suffix.
        main: the main score; None for negprompt, or for the first if there is no negprompt.

    Returns:
        The images, and the seed.

    Raises:
        UsageError: the file cannot be read, has no scores of an evaluation, or does not have the main score.
    """
    seed, sets = next(iter(read_score_seeds(path, main).items()))
    return sets, seed


def read_score_seeds(path: Path, main: str | None = None) -> dict[int, ScoredSets]:
    """The images of a file of scores by seed, in the order of the file; arguments and errors as `read_score_file`."""
    try:
        by_seed: dict[int, list[Mapping[str, Any]]] = {}
        for record in read_table(path, form_of(path)):
            by_seed.setdefault(int(record["seed"]), []).append(record)
        if not by_seed:
            raise UsageError(f"{path} has no rows of images.")
        return {seed: _sets(records, path, main) for seed, records in by_seed.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged, or has no scores of single images ({error}).") from error


def _sets(records: list[Mapping[str, Any]], path: Path, main: str | None) -> ScoredSets:
    scores = [name for name in records[0] if name not in COLUMNS]
    chosen = main or ("negprompt" if "negprompt" in scores else scores[0])
    if chosen not in scores:
        raise UsageError(f"{path} has no score {chosen!r}. It has {', '.join(scores)}.")
    scores = [chosen, *(name for name in scores if name != chosen)]
    names: dict[str, int] = {}
    for record in records:
        for name in filter(None, (record["label_name"], record["prediction_name"])):
            names.setdefault(str(name), len(names))
    sets: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        sets.setdefault((record["role"], record["set"]), []).append(record)
    made = {
        key: ScoredSet(
            key[1],
            [Path(str(r["path"])) for r in own],
            np.array([names[r["label_name"]] if r["label_name"] else -1 for r in own], dtype=np.int64),
            list(names),
            np.array([names[r["prediction_name"]] for r in own], dtype=np.int64),
            {name: np.array([float(r[name]) for r in own]) for name in scores},
        )
        for key, own in sets.items()
    }
    id_sets = [s for (role, _), s in made.items() if role == "id"]
    ood_sets = [s for (role, _), s in made.items() if role == "ood"]
    if len(id_sets) != 1 or not ood_sets:
        raise UsageError(
            f"{path} must have one ID set and at least one OOD set, but it has {len(id_sets)} and {len(ood_sets)}."
        )
    return ScoredSets(list(names), id_sets[0], ood_sets, scores)
