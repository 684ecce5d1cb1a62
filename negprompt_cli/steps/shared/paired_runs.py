"""Runs compared image by image, from the files of scores that their evaluations saved: the same score, the same images.

The first run is the one that the others are compared with: DeLong's test for AUROC and the paired bootstrap for FPR95, for
each score that every run has. A file can hold several seeds, whose figures are averaged. Images are paired by their names:
the path without the folders that all images of the set share, so a data set may have moved between two evaluations.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from negprompt_cli.choices import FprConvention
from negprompt_cli.config import EvaluateConfig
from negprompt_cli.data.files.digest import file_sha256
from negprompt_cli.data.results.evaluation_means import average_over_sets, row_over_seeds
from negprompt_cli.data.results.evaluations import AVERAGE, Row, below_chance
from negprompt_cli.engine.metrics.detection import acceptance_curve, metrics_of
from negprompt_cli.engine.metrics.paired import Judged, paired_differences
from negprompt_cli.errors import UsageError, did_you_mean
from negprompt_cli.steps.shared.comparison import ALL_RUNS, Comparison, Line
from negprompt_cli.steps.shared.intervals import different, versus_of
from negprompt_cli.steps.shared.scored_sets import ScoredSet, ScoredSets, read_score_seeds
from negprompt_cli.wording import some_of


@dataclass(frozen=True, eq=False)
class _Run:
    """A file of scores by seed, and for the ID set and each OOD set the order of its images by name."""

    label: str
    path: Path
    seeds: dict[int, ScoredSets]
    orders: dict[str, npt.NDArray[np.intp]]

    @property
    def first(self) -> ScoredSets:
        return next(iter(self.seeds.values()))

    def judged(self, score: str, oods: Sequence[str]) -> Sequence[Judged]:
        """A score's judgements by seed, images in the order of their names; one where all seeds say the same."""
        every = []
        for sets in self.seeds.values():
            by_name = {ood.name: ood for ood in sets.ood_sets}
            parts = [sets.id_set.scores[score][self.orders[""]]]
            parts += [by_name[name].scores[score][self.orders[name]] for name in oods]
            every.append(Judged(parts[0], tuple(parts[1:])))
        return different(every)

    @property
    def accuracies(self) -> list[float]:
        """The share of ID images whose class is predicted, by seed."""
        return [float(_correct(sets).mean()) for sets in self.seeds.values()]


def compare_score_files(
    paths: Sequence[Path], labels: Sequence[str], *, scores: Sequence[str] | None, fpr: FprConvention
) -> Comparison:
    """Compare runs score by score on the same images.

    Args:
        paths: files of scores that `evaluate` saved; the first is the one that the others are compared with.
        labels: short names of the runs.
        scores: only these scores; None for all that every run has.
        fpr: the FPR95 convention to show.

    Raises:
        UsageError: a file cannot be read, the images are not the same, or no score is in every file.
    """
    runs = [_read(path, label) for path, label in zip(paths, labels, strict=True)]
    first = runs[0]
    notes = [note for run in runs[1:] for note in _same_images(first, run)]
    common = [name for name in first.first.scores if all(name in run.first.scores for run in runs)]
    if not common:
        having = [f"{run.path} has {', '.join(run.first.scores)}" for run in runs]
        raise UsageError(f"No score is in all files: {'; '.join(having)}.")
    for score in scores or ():
        if score not in common:
            raise UsageError(f"Not every file has the score {score!r}.{did_you_mean(score, common)}")
    left_out = dict.fromkeys(name for run in runs for name in run.first.scores if name not in common)
    if left_out and scores is None:
        notes.append(f"Only scores that all files have are compared; left out: {', '.join(left_out)}.")
    oods = [ood.name for ood in first.first.ood_sets]
    settings = EvaluateConfig()
    facts = {run.label: {"seeds": ",".join(map(str, run.seeds))} for run in runs}
    same_seeds = len({mine["seeds"] for mine in facts.values()}) == 1
    differing: dict[str, dict[str, str]] = {label: {} for label in facts} if same_seeds else facts
    shared: list[Line] = []
    lines: list[Line] = []
    for score in [name for name in common if scores is None or name in scores]:
        judged = {run.label: run.judged(score, oods) for run in runs}
        if len(runs) > 1 and all(_same(one, judged[first.label]) for one in judged.values()):
            shared.append(_line(ALL_RUNS, first, score, oods, dict.fromkeys(differing[first.label], "-")))
            continue
        found = {}
        if len(runs) > 1 and min(len(first.first.id_set), *map(len, first.first.ood_sets)) > 1:
            found = paired_differences(
                judged,
                first.label,
                generator=np.random.default_rng(0),
                n=settings.resamples,
                level=settings.level,
            )
        for run in runs:
            line = _line(run.label, run, score, oods, differing[run.label])
            for name, gaps in zip((*oods, AVERAGE), found.get(run.label, ()), strict=False):
                versus = versus_of(gaps, first.label, settings.level)
                line.cells[name] = line.cells[name].model_copy(update={"versus": versus})
            lines.append(line)
    lines = shared + lines
    if (warning := below_chance(cell for line in lines for cell in line.cells.values())) is not None:
        notes.append(warning.message)
    if len(runs) > 1:
        notes.append("The intervals cover the choice of test images, not training seeds.")
    return Comparison(
        id_name=first.first.id_set.name,
        id_images=len(first.first.id_set),
        id_classes=len(np.unique(first.first.id_set.labels)),
        fpr=fpr,
        sets=(*oods, AVERAGE),
        lines=tuple(lines),
        shared=facts[first.label] if same_seeds else {},
        differing=differing,
        published=(),
        sources={run.label: {"scores_sha256": file_sha256(run.path)} for run in runs},
        notes=tuple(notes),
        paired_with=first.label if len(runs) > 1 else None,
    )


def _read(path: Path, label: str) -> _Run:
    seeds = read_score_seeds(path)
    run = _Run(label, path, seeds, {})
    everything = [(sets.id_set, *sets.ood_sets) for sets in seeds.values()]
    if len({tuple((one.name, tuple(one.paths)) for one in sets) for sets in everything}) > 1:
        raise UsageError(f"{path} is damaged: its seeds are not of the same images.")
    for scored in everything[0]:
        names = _names(scored)
        key = "" if scored is everything[0][0] else scored.name
        run.orders[key] = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.intp)
    return run


def _line(label: str, run: _Run, score: str, oods: Sequence[str], facts: dict[str, str]) -> Line:
    """The figures of a score of a run, means over its seeds."""
    by_seed = []
    for sets in run.seeds.values():
        correct, known = _correct(sets), sets.id_set.scores[score]
        rows = []
        for ood in sets.ood_sets:
            try:
                figures = metrics_of(acceptance_curve(known, ood.scores[score], correct)).model_dump()
            except ValueError as error:
                raise UsageError(f"{run.path}: score {score} on {ood.name} cannot be measured: {error}.") from error
            rows.append(Row.model_validate({"ood": ood.name, "images": len(ood), "score": score, **figures}))
        by_seed.append({row.ood: row for row in (*rows, average_over_sets(rows))})
    cells = {name: row_over_seeds([rows[name] for rows in by_seed]) for name in (*oods, AVERAGE)}
    accuracies = run.accuracies
    return Line(
        run=label,
        score=score,
        accuracy=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        facts=facts,
        cells=cells,
    )


def _correct(sets: ScoredSets) -> npt.NDArray[np.bool_]:
    right: npt.NDArray[np.bool_] = sets.id_set.predictions == sets.id_set.labels
    return right


def _same(ones: Sequence[Judged], others: Sequence[Judged]) -> bool:
    """Whether two runs say the same of every image in every seed."""
    return len(different([*ones, *others])) == 1


def _same_images(one: _Run, other: _Run) -> list[str]:
    """What must be known of the images of two runs that are the same by name.

    Raises:
        UsageError: they are not the same.
    """
    fix = "Evaluate both on the same images, and save the scores again."
    mine, theirs = ([run.first.id_set, *run.first.ood_sets] for run in (one, other))
    if (mine[0].name, {s.name for s in mine[1:]}) != (theirs[0].name, {s.name for s in theirs[1:]}):
        described = [f"{s[0].name} against {', '.join(o.name for o in s[1:])}" for s in (mine, theirs)]
        raise UsageError(f"The data sets differ: {one.path} has {described[0]}, {other.path} has {described[1]}. {fix}")
    moved = []
    by_name = {scored.name: scored for scored in theirs[1:]}
    for place, first in enumerate(mine):
        second = by_name[first.name] if place else theirs[0]
        names = Counter(_names(first)), Counter(_names(second))
        if names[0] != names[1]:
            apart = sorted((names[0] - names[1]) + (names[1] - names[0]))
            raise UsageError(
                f"The images of {first.name} are not the same in {one.path} ({len(first)}) and {other.path} "
                f"({len(second)}): {some_of(apart, 3)} {'is' if len(apart) == 1 else 'are'} in one only. {fix}"
            )
        if set(first.paths) != set(second.paths):
            moved.append(first.name)
    return [
        f"{one.label} and {other.label} have {' and '.join(moved)} in different folders; images were paired by name."
    ] * bool(moved)


def _names(scored: ScoredSet) -> list[str]:
    """The path of each image below the folders that all images of the set share."""
    parts = [path.parts for path in scored.paths]
    depth = min(len(own) - 1 for own in parts)
    shared = next((i for i in range(depth) if len({own[i] for own in parts}) > 1), depth)
    return ["/".join(own[shared:]) for own in parts]
