"""Scoring: one row per image, in input order, in constant memory."""

import heapq
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.data.results.corrections import read_sorted
from negprompt_cli.data.results.rowfile import KnownPaths, Row, Sink, Totals
from negprompt_cli.data.results.sorting import sort_rows
from negprompt_cli.engine.metrics.conformal import BatchVerdict, batch_verdict, p_values
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Task
from negprompt_cli.steps.shared.selection import selected
from negprompt_cli.steps.shared.verdicts import Judge, Verdicts
from negprompt_cli.wording import some_of

SHOWN = 5
"""How many images with the lowest scores a summary names."""
NAMED = 20
"""How many images that could not be judged a summary names."""


@dataclass(frozen=True)
class Sorting:
    """The folder into which images are sorted, as links or copies in `into`/id/<class> and `into`/ood.

    `detector`: path and sha256 of the detector, for the record; None if it has no file. `threshold`: the one that decides.
    """

    into: Path
    copy: bool
    detector: tuple[Path, str] | None
    threshold: float | None


@dataclass
class ScoreSummary:
    """The result of scoring, in numbers of images.

    `images` got rows, `broken` of them with an error; `ood` are below the threshold; `known` already had rows and were
    skipped. `unreadable`: the first broken ones. `lowest`: (score, path) of those with the lowest scores, lowest first.
    `by_class`: accepted images by class key, or all images if there is no threshold. `delivery`: the test whether the images
    together look like the calibration images, if it was requested.
    """

    images: int = 0
    broken: int = 0
    ood: int = 0
    known: int = 0
    unreadable: list[str] = field(default_factory=list)
    lowest: list[tuple[float, str]] = field(default_factory=list)
    by_class: dict[str, int] = field(default_factory=dict)
    delivery: BatchVerdict | None = None


def require_threshold(verdicts: Verdicts, what: str) -> None:
    """Check that there is a threshold, which `what` needs.

    Raises:
        UsageError: there is none; the message says how to get one.
    """
    if verdicts.threshold is None:
        known = verdicts.calibrated_for
        other = f" (they are calibrated for {known})" if known else ""
        raise UsageError(
            f"{what} needs a threshold, and the prompts have none for the score {verdicts.score}{other}.",
            remedy="calibrate-export" if verdicts.exported else "calibrate-or-threshold",
        )


def run_score(
    judge: Judge,
    paths: Iterable[Path],
    sink: Sink,
    *,
    limit: int | None = None,
    known: KnownPaths | None = None,
    sorting: Sorting | None = None,
    stop_on_error: bool = False,
    fdr: float | None = None,
    shift_level: float | None = None,
    task: Task,
) -> ScoreSummary:
    """Judge images and pass each batch of rows to `sink`.

    Args:
        judge: the detector.
        paths: image files.
        sink: receives the rows, in the order of `paths`.
        limit: largest number of images to judge.
        known: images to skip, because they already have rows.
        sorting: also sort the images into folders.
        stop_on_error: stop at the first broken image instead of giving it a row with an error.
        fdr: false discovery rate in (0, 1); the p-values of all images together then decide, instead of the threshold.
        shift_level: level in (0, 1) of a test whether all images together have shifted; None for no test.
        task: advances with each image.

    Raises:
        UsageError: sorting needs a threshold, or p-values need calibration images, and there are none.
        BrokenImage: an image is broken, and `stop_on_error` is true.
        NegPromptError: an output cannot be written.
    """
    if sorting and fdr is None:
        require_threshold(judge.verdicts, "Sorting images")
    summary = ScoreSummary()
    todo: Iterator[Path] = islice(_unknown(paths, known or KnownPaths(), summary), limit)
    scores = array("d")
    with closing(judge.stream(todo)) as stream:
        judged = _judged(stream, task, stop_on_error=stop_on_error)
        for rows in judged if fdr is None else selected(judged, fdr):
            if sorting:
                sort_rows(rows, sorting.into, copy=sorting.copy, detector=sorting.detector, threshold=sorting.threshold)
            sink.write(rows)
            for row in rows:
                _count(row, summary)
            judged_now = [(row.score, row.path) for row in rows if row.score is not None]
            scores.extend(score for score, _ in judged_now)
            summary.lowest = heapq.nsmallest(SHOWN, summary.lowest + judged_now, key=itemgetter(0))
    if shift_level is not None and scores:
        held_out, threshold = require_calibration(judge.verdicts, "a verdict on all images together")
        summary.delivery = batch_verdict(np.frombuffer(scores), held_out, threshold, level=shift_level)
    return summary


def check_same_run(before: Totals, verdicts: Verdicts, path: Path) -> None:
    """Refuse to add rows to those of other prompts, another score or another threshold.

    Raises:
        UsageError: the existing rows differ, as far as they show.
    """
    keys = {c.key for c in verdicts.classes}
    if unknown := sorted(before.predictions - keys):
        raise UsageError(
            f"{path} has rows of other prompts: they predict {some_of(unknown)}, which are no classes of these prompts.",
            remedy="other-out",
        )
    if before.p_values and not _same_calibration(before.p_values, verdicts):
        raise UsageError(
            f"{path} has rows of other prompts or of another score: their p-values are not those of these prompts.",
            remedy="other-out",
        )
    threshold = verdicts.threshold
    decided = before.ood + before.images - before.broken - before.undecided
    if verdicts.by_class or (not decided and threshold is None):
        return
    ood, accepted = before.highest_ood, before.lowest_id
    other = (
        threshold is None or (ood is not None and ood >= threshold) or (accepted is not None and accepted < threshold)
    )
    if (decided and other) or (before.undecided and threshold is not None):
        judged = f"a threshold of {threshold:.6g}" if threshold is not None else "no threshold"
        raise UsageError(
            f"{path} has rows that were judged with another score or another threshold: this run has {judged}, and their "
            "verdicts do not agree with that.",
            remedy="other-out",
        )


def _same_calibration(found: Mapping[float, float], verdicts: Verdicts) -> bool:
    """Whether the p-values of scores are those that the calibration images of these prompts give them."""
    if verdicts.calibration_scores is None:
        return False
    expected = p_values(np.array(list(found)), verdicts.calibration_scores)
    return bool(np.allclose(expected, list(found.values()), rtol=0, atol=1e-9))


def check_sorting(into: Path, paths: Sequence[str], *, append: bool) -> None:
    """Refuse to sort images into a folder with those of another run, or into a folder that is scored.

    Raises:
        UsageError: the folder is not empty and `append` is false, or it is in a folder of `paths`.
    """
    for path in map(Path, paths):
        if path.is_dir() and into.resolve().is_relative_to(path.resolve()):
            raise UsageError(
                f"{into} is in {path}, whose images are scored, so sorted images would be scored again. Choose a folder "
                "outside of it."
            )
    if not append and into.is_dir() and any(into.iterdir()):
        raise UsageError(
            f"{into} is not empty, and images of two runs would be mixed in it. Choose an empty folder.",
            remedy="sort-again",
        )


def check_same_sorting(sorting: Sorting) -> None:
    """Refuse to sort into a folder that another detector or threshold sorted.

    It would put some images where a user has moved them, and these corrections would then look like predictions.

    Raises:
        UsageError: the folder's record differs, or the folder has images and no record.
    """
    if not (sorting.into.is_dir() and any(sorting.into.iterdir())):
        return
    this = (sorting.detector[1] if sorting.detector else "", sorting.threshold)
    if any((image.detector_sha256, image.threshold) != this for image in read_sorted(sorting.into)):
        raise UsageError(
            f"{sorting.into} was sorted with another detector or threshold. Corrections in it would be lost. Choose an "
            "empty folder."
        )


def require_calibration(verdicts: Verdicts, what: str) -> tuple[npt.NDArray[np.float64], float]:
    """The calibration scores (n,) of held-out ID images, and the threshold that was chosen on them.

    Raises:
        UsageError: the prompts are not calibrated for the score; the message says how to calibrate.
    """
    if verdicts.calibration_scores is None or verdicts.threshold is None:
        known = verdicts.calibrated_for
        other = f", only for {known}" if known else ""
        raise UsageError(
            f"{what[0].upper()}{what[1:]} needs the scores of held-out ID images, and the prompts are not calibrated for "
            f"the score {verdicts.score}{other}.",
            remedy="calibrate-export" if verdicts.exported else "calibrate",
        )
    return verdicts.calibration_scores, verdicts.threshold


def _judged(batches: Iterable[list[Row]], task: Task, *, stop_on_error: bool) -> Iterator[list[Row]]:
    for rows in batches:
        if stop_on_error and (broken := next((row.error for row in rows if row.error), None)):
            raise BrokenImage(broken)
        yield rows
        task.advance(len(rows))


def _unknown(paths: Iterable[Path], known: KnownPaths, summary: ScoreSummary) -> Iterator[Path]:
    for path in paths:
        if known.take(str(path)):
            summary.known += 1
        else:
            yield path


def _count(row: Row, summary: ScoreSummary) -> None:
    summary.images += 1
    if row.prediction is None:
        summary.broken += 1
        if len(summary.unreadable) < NAMED:
            summary.unreadable.append(row.path)
    elif row.is_ood:
        summary.ood += 1
    else:
        summary.by_class[row.prediction] = summary.by_class.get(row.prediction, 0) + 1
