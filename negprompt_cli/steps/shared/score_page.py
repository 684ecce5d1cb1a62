"""The page of scored images: a summary, a histogram with a movable threshold, and the most suspicious images.

It is made from rows, so every command that writes rows can make a page. Memory and the size of the page are bounded: the
score, class and verdict of every image are kept (13 bytes), the rows of the most suspicious ones and of a random sample, and
thumbnails of some of these. Counts for a moved threshold include all images (see `report.histogram`).
"""

import heapq
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.results.rowfile import Row, Sink
from negprompt_cli.data.results.tables import utf8_text
from negprompt_cli.engine.metrics.conformal import BatchVerdict
from negprompt_cli.report.histogram import Bins, draw, make_bins
from negprompt_cli.report.page import Gallery, Number, Table, Thumbnail, render
from negprompt_cli.report.thumbnails import thumbnails
from negprompt_cli.steps.shared.verdicts import Verdicts
from negprompt_cli.wording import percent

MOST_SUSPICIOUS = 10_000
"""Number of images with the lowest scores whose rows are on the page, for the CSV file."""
SHOWN = 240
"""Number of these that have thumbnails."""
SAMPLE = 60
"""Number of images in a random sample of the others, with thumbnails."""
BROKEN = 50
"""Number of images named that could not be judged."""
UNDECIDED = -1


@dataclass(frozen=True)
class Judged:
    """How the images were judged, as far as it is known.

    `score`: name of the ID score. `threshold`: the threshold of all images; None if there is none, or if it must be derived
    from the verdicts. `held_out`: (n,) scores of the calibration images. `remarks`: sentences below the verdict. `facts`:
    names and values at the end of the page.
    """

    score: str = "score"
    threshold: float | None = None
    held_out: npt.NDArray[np.float64] | None = None
    remarks: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    limited: bool = False


def judged_by(
    verdicts: Verdicts, *, fdr: float | None = None, delivery: BatchVerdict | None = None, limited: bool = False
) -> Judged:
    """The facts about how the rows were judged, for their page."""
    remarks = []
    if fdr is not None:
        remarks.append(
            f"At most {100 * fdr:g} % of the images called OOD are expected to be ID (false discovery rate)."
        )
    if delivery:
        remarks.append(delivery.sentence())
    return Judged(
        score=verdicts.score,
        threshold=verdicts.threshold if fdr is None else None,
        held_out=verdicts.calibration_scores,
        remarks=remarks,
        facts=[
            ("classes", str(len(verdicts.classes))),
            ("prompts", f"sha256 {verdicts.prompts_sha256}" if verdicts.prompts_sha256 else "class names alone"),
            ("weights", f"sha256 {verdicts.weights_sha256}"),
        ],
        limited=limited,
    )


class PageRows:
    """A sink that collects rows for a page, with bounded memory.

    Args:
        onward: another sink, which receives each row first.
        seed: random seed of the sample.
    """

    def __init__(self, onward: Sink | None = None, *, seed: int = 0) -> None:
        self._onward, self._random = onward, Random(seed)
        self.images = 0
        self.broken: list[Row] = []
        self.broken_count = 0
        self.scores, self.labels, self.verdicts = array("d"), array("i"), array("b")
        self.classes: dict[tuple[str, str], int] = {}
        self._lowest: list[tuple[float, int, Row]] = []
        self._sample: list[tuple[int, Row]] = []

    def write(self, rows: Iterable[Row]) -> None:
        """Receive some rows."""
        if self._onward:
            rows = list(rows)
            self._onward.write(rows)
        for row in rows:
            self._take(row)

    def _take(self, row: Row) -> None:
        self.images += 1
        if row.score is None or row.prediction is None:
            self.broken_count += 1
            if len(self.broken) < BROKEN:
                self.broken.append(row)
            return
        number = len(self.scores)
        key = (row.prediction, row.prediction_name or row.prediction)
        self.scores.append(row.score)
        self.labels.append(self.classes.setdefault(key, len(self.classes)))
        self.verdicts.append(UNDECIDED if row.is_ood is None else row.is_ood)
        # The heap holds the lowest scores, with the highest of them on top; equal scores keep the input's order.
        if len(self._lowest) < MOST_SUSPICIOUS:
            heapq.heappush(self._lowest, (-row.score, -number, row))
        elif -row.score > self._lowest[0][0]:
            heapq.heapreplace(self._lowest, (-row.score, -number, row))
        # Algorithm R (Vitter, 1985): every image so far is in the sample with the same probability.
        if len(self._sample) < SAMPLE:
            self._sample.append((number, row))
        elif (place := self._random.randrange(number + 1)) < SAMPLE:
            self._sample[place] = (number, row)

    @property
    def suspicious(self) -> dict[int, Row]:
        """The images with the lowest scores by their numbers, lowest first."""
        return {-number: row for _, number, row in sorted(self._lowest, key=lambda item: (-item[0], -item[1]))}

    @property
    def sample(self) -> dict[int, Row]:
        """A random sample of all images by their numbers, in the order of the input."""
        return dict(sorted(self._sample, key=lambda item: item[0]))


def write_score_page(path: Path, rows: PageRows, judged: Judged, *, title: str, rules: PixelsConfig) -> None:
    """Write the page of the collected rows.

    Args:
        path: the HTML file; an existing one is replaced.
        rows: the images.
        judged: how they were judged.
        title: the heading.
        rules: how image files are read, for thumbnails.
    """
    atomic_write_text(path, render("score", title=title, **page_values(rows, judged, rules)))


def page_values(
    rows: PageRows,
    judged: Judged,
    rules: PixelsConfig,
    *,
    own: Mapping[str, str] | None = None,
    shown: int | None = None,
) -> dict[str, Any]:
    """The values of the template `score`, except the title.

    `own`: names of the images' own classes by path, if known. `shown`: number of suspicious images with thumbnails.
    """
    scores, labels, verdicts = np.array(rows.scores), np.array(rows.labels), np.array(rows.verdicts)
    threshold, single = _threshold(scores, verdicts, judged.threshold)
    decided, ood, held_out = bool((verdicts != UNDECIDED).any()), int((verdicts == 1).sum()), judged.held_out
    # With a false discovery rate the images themselves decide the threshold, so no number of rejections is expected.
    designed = judged.threshold if decided and single and threshold == judged.threshold else None
    values: dict[str, Any] = {
        "answer": [
            _verdict(rows, ood, decided=decided),
            *_expected(len(scores), ood, held_out, designed),
            *judged.remarks,
        ],
        "limited": judged.limited,
        "broken": _broken(rows),
        "facts": [("score", judged.score), *judged.facts],
        "histogram": None,
        "galleries": [],
    }
    if not len(scores):
        return values
    bins = make_bins(scores, threshold, held_out=held_out)
    kept = rows.suspicious
    listed = kept | rows.sample
    alt = f"Histogram of the {judged.score} scores of {len(scores)} images"
    held = None if held_out is None else bins.count(held_out)
    return values | {
        "histogram": draw(bins, bins.count(scores), alt=alt, held=held, decided=decided),
        "numbers": _numbers(len(scores), ood, held_out, threshold, decided=decided, single=single),
        "choices": _choices(rows, labels),
        "galleries": _galleries(rows, listed, rules, own or {}, min(len(kept), SHOWN if shown is None else shown)),
        "note": _note(len(scores), len(kept), len(listed) - len(kept), single=single),
        "data": {
            "edges": bins.edges.tolist(),
            "axis": bins.axis,
            "step": bins.step,
            "start": bins.start,
            "decided": decided,
            "counts": _sparse(bins, scores, labels, len(rows.classes)),
            "judged": dict(enumerate(np.bincount(labels[verdicts == 1], minlength=len(rows.classes)).tolist())),
            "held": None if held_out is None else _accepted(held_out, bins),
            "classes": [list(map(utf8_text, key)) for key in rows.classes],
            "rows": [_compact(row, rows.classes) for row in listed.values()],
            "file": "scores.csv",
        },
    }


def _threshold(
    scores: npt.NDArray[np.float64], verdicts: npt.NDArray[np.int8], known: float | None
) -> tuple[float | None, bool]:
    """The threshold of the verdicts, and whether one threshold explains all of them.

    If it is unknown, or a false discovery rate decided, it is the lowest accepted score.
    """
    accepted, rejected = scores[verdicts == 0], scores[verdicts == 1]
    if known is not None and not (accepted < known).any() and not (rejected >= known).any():
        return known, True
    if not len(accepted) and not len(rejected):
        return known, True
    if not len(accepted):
        return float(np.nextafter(rejected.max(), np.inf)), True
    if not len(rejected) or rejected.max() < accepted.min():
        return float(accepted.min()), True
    return known, False


def _verdict(rows: PageRows, ood: int, *, decided: bool) -> str:
    """The answer in a sentence."""
    count = len(rows.scores)
    if not count:
        return (
            f"None of the {rows.images:,} images could be judged." if rows.images else "There were no images to judge."
        )
    broken = f" {rows.broken_count:,} more could not be judged." if rows.broken_count else ""
    if not decided:
        return (
            f"{count:,} images were scored. There is no threshold, so no image is called OOD. Images with the lowest "
            f"scores come first.{broken}"
        )
    if not ood:
        return f"All {count:,} images are accepted as ID.{broken}"
    share = percent(ood / count)
    return f"{ood:,} of {count:,} images ({share} %) are OOD: they do not look like any of the classes.{broken}"


def _expected(images: int, ood: int, held_out: npt.NDArray[np.float64] | None, threshold: float | None) -> list[str]:
    """The number of OOD verdicts that is expected if all images are ID."""
    if held_out is None or threshold is None:
        return []
    rejected = float((held_out < threshold).mean())
    return [
        f"The threshold rejects {percent(rejected)} % of {len(held_out):,} held-out ID images by design. If all {images:,} "
        f"images were ID, about {round(rejected * images):,} would be called OOD; here {ood:,} are."
    ]


def _numbers(
    images: int,
    ood: int,
    held_out: npt.NDArray[np.float64] | None,
    threshold: float | None,
    *,
    decided: bool,
    single: bool,
) -> list[Number]:
    named = "by class" if not single else "none" if threshold is None else f"{threshold:.4g}"
    numbers = [
        Number("images", f"{images:,}", key="n-images"),
        Number("OOD", f"{ood:,}" if decided else "-", key="n-ood"),
        Number("accepted as ID", f"{percent(1 - ood / images)} %" if decided else "-", key="n-share"),
        Number("threshold", named, key="n-threshold"),
    ]
    if held_out is not None:
        accepted = None if threshold is None or not single else float((held_out >= threshold).mean())
        share = "-" if accepted is None else f"{percent(accepted)} %"
        numbers.append(Number(f"of {len(held_out):,} held-out ID images accepted", share, key="n-held"))
    return numbers


def _note(images: int, kept: int, others: int, *, single: bool) -> str:
    """The note about the slider and the CSV file."""
    texts = [
        "Move the slider to try another threshold. The counts of all images, the badges and the CSV file change with it. To "
        "use a threshold, pass it to the next run."
    ]
    if not single:
        texts.append("The verdicts use a threshold for each class; the slider uses one threshold for all classes.")
    if kept < images:
        texts.append(f"The CSV file has the {kept:,} most suspicious images and {others} others, chosen at random.")
    return " ".join(texts)


def _choices(rows: PageRows, labels: npt.NDArray[np.int32]) -> list[tuple[int, str]]:
    """Classes for the filter, in the order of their names, with their numbers of images."""
    counts = np.bincount(labels, minlength=len(rows.classes))
    named = [(index, f"{utf8_text(name)} ({counts[index]:,})") for (_, name), index in rows.classes.items()]
    return sorted(named, key=lambda choice: choice[1])


def _galleries(
    rows: PageRows, listed: Mapping[int, Row], rules: PixelsConfig, own: Mapping[str, str], shown: int
) -> list[Gallery]:
    """The `shown` most suspicious images, and a sample of the others if there are more."""
    places, sample = list(listed.items()), rows.sample
    chosen = [(i, row) for i, (number, row) in enumerate(places) if i < shown or number in sample]
    jpegs = thumbnails([Path(row.path) for _, row in chosen], rules)
    cards = [_card(i, row, jpeg, own.get(row.path)) for (i, row), jpeg in zip(chosen, jpegs, strict=True)]
    first, others = cards[:shown], cards[shown:]
    if not others:
        return [Gallery("Most suspicious images", "", first)]
    return [
        Gallery("Most suspicious images", f"The {shown} of {len(rows.scores):,} images with the lowest scores.", first),
        Gallery("Other images", f"{len(others)} of the other images, chosen at random.", others),
    ]


def _card(index: int, row: Row, jpeg: bytes | None, own: str | None) -> Thumbnail:
    """A thumbnail with file name, verdict, predicted class, score, p-value, and own class or nearest negative."""
    lines = [
        f"predicted {row.prediction_name}",
        f"score {row.score:.4g}" + (f", p-value {row.p_value:.2g}" if row.p_value is not None else ""),
    ]
    if own is not None:
        lines.insert(0, f"labelled {own}")
    elif row.nearest_negative is not None:
        lines.append(f"negative {row.nearest_negative}")
    return Thumbnail(
        jpeg,
        Path(row.path).name,
        lines,
        badge="" if row.is_ood is None else "OOD" if row.is_ood else "ID",
        data={"row": str(index)},
        path=row.path,
    )


def _compact(row: Row, classes: dict[tuple[str, str], int]) -> list[Any]:
    """A row as `score.js` reads it."""
    label = classes[row.prediction or "", row.prediction_name or row.prediction or ""]
    return [
        utf8_text(row.path),
        label,
        row.probability,
        row.score,
        row.p_value,
        utf8_text(row.nearest_negative),
        row.negative_similarity,
        row.is_ood,
    ]


def _sparse(
    bins: Bins, scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int32], classes: int
) -> dict[int, list[int]]:
    """For each class, the bins that are not empty, each followed by its count."""
    width = len(bins.edges) - 1
    cells, counts = np.unique(labels.astype(np.int64) * width + bins.places(scores), return_counts=True)
    made: dict[int, list[int]] = {label: [] for label in range(classes)}
    for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
        made[cell // width] += [cell % width, count]
    return made


def _accepted(held_out: npt.NDArray[np.float64], bins: Bins) -> list[float]:
    """The share of held-out ID images that a threshold at each edge accepts."""
    below = np.searchsorted(np.sort(held_out), bins.edges)
    return [round(share, 5) for share in (1 - below / len(held_out)).tolist()]


def _broken(rows: PageRows) -> Table:
    """Images that could not be judged, with the reasons."""
    cells = [[row.path, row.error or ""] for row in rows.broken]
    left = rows.broken_count - len(cells)
    note = f"{left:,} more are not shown." if left else ""
    title = f"Images that could not be judged: {rows.broken_count:,}"
    return Table(title, ["image", "why"], cells, note, words=(0, 1), tall=len(cells) > 12)
