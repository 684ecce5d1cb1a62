"""The page of a fit: how well the detector knows the user's own images, before it scores others.

Held-out images were not used for training, so new images of the same kind will have similar accuracy, confusions and scores.
The threshold was chosen on the held-out images, so the share that it rejects is by design; its interval shows what to expect
for new images. Doubtful labels are looked for among training and held-out images (`engine.label_doubts`). The training has
seen the labels of training images, so the page shows which images these are.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from negprompt_cli.data.encoding.features import EncodedSet
from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.results.rowfile import Row
from negprompt_cli.data.sets.imagesets import match_classes
from negprompt_cli.engine.label_doubts import Doubt, label_doubts
from negprompt_cli.engine.metrics.conformal import thresholds_of
from negprompt_cli.report.page import Gallery, Number, Thumbnail, render
from negprompt_cli.report.thumbnails import thumbnails
from negprompt_cli.steps.shared.class_tables import class_table, confusions, interval
from negprompt_cli.steps.shared.score_page import Judged, PageRows, page_values
from negprompt_cli.steps.shared.scorer import Scorer, make_scorer
from negprompt_cli.steps.shared.thresholds import held_out_images
from negprompt_cli.steps.shared.training_data import find_training_images
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import percent

DOUBTS = 48
"""Number of doubtful labels shown."""
HEADINGS = ("Held-out images, most suspicious first", "Other held-out images")
HELD_OUT = 48
"""Number of held-out images shown, those with the lowest scores, beside a sample of the others."""
LOWEST = 24
"""Number of training images shown, those with the lowest scores."""


def write_fit_page(bench: Workbench, prompts: Prompts, path: Path) -> None:
    """Write the page of prompts that were fitted to the configured ID data; features come from the cache.

    Raises:
        UsageError: the data are missing, or their classes do not match.
        NegPromptError: an image is broken, or the page cannot be written.
    """
    held = bench.encode(match_classes(held_out_images(bench), prompts.classes))
    trained = bench.encode(find_training_images(bench, prompts.classes))
    scorer = make_scorer(bench, prompts)
    rows = _rows(scorer, held)
    names, rules = prompts.names, bench.config.model.pixels
    labels = held.labels.numpy()
    keys = {c.key: i for i, c in enumerate(prompts.classes)}
    predictions = np.array([keys[row.prediction or ""] for row in rows], dtype=np.int64)
    correct = predictions == labels
    accepted = np.array([not row.is_ood for row in rows]) if scorer.threshold is not None else None
    doubts = _doubts(scorer, held, trained)
    collected = PageRows()
    collected.write(rows)
    own = {row.path: names[label] for row, label in zip(rows, labels.tolist(), strict=True)}
    facts = [
        ("training images", str(len(trained))),
        ("held-out images", str(len(held))),
        ("negatives per class", str(prompts.negatives_per_class)),
        ("model", str(prompts.model)),
        ("prompts", f"sha256 {prompts.sha256}"),
    ]
    judged = Judged(scorer.choice.name, scorer.threshold, facts=facts, limited=bench.config.data.limit is not None)
    values = page_values(collected, judged, rules, own=own, shown=HELD_OUT)
    values |= {
        "title": f"Detector fitted to {held.images.name}",
        "galleries": [
            replace(gallery, title=title) for gallery, title in zip(values["galleries"], HEADINGS, strict=False)
        ],
        "answer": _answer(correct, accepted, len(doubts)),
        "summary": _summary(correct, accepted, prompts),
        "classes": class_table("Classes of held-out images", labels, predictions, names, accepted),
        "confusions": confusions(labels, predictions, names),
        "doubts": _doubt_gallery(doubts, [held, trained], names, bench),
        "lowest": _lowest_gallery(scorer, trained, names, bench),
    }
    atomic_write_text(path, render("fit", **values))


def _rows(scorer: Scorer, encoded: EncodedSet) -> list[Row]:
    """Rows of encoded images, without p-values, which need other images than the held-out ones."""
    verdicts = replace(scorer.verdicts, calibration_scores=None)
    return verdicts.rows(list(encoded.images.paths), [None] * len(encoded), scorer.judge(encoded.features))


def _doubts(scorer: Scorer, held: EncodedSet, trained: EncodedSet) -> list[Doubt]:
    """Doubtful labels; images are numbered, first the held-out and then the training images."""
    features = torch.cat([held.features, trained.features])
    positives = scorer.bank.positives.cpu().float()
    labels = torch.cat([held.labels, trained.labels])
    return label_doubts(features, labels, positives, scale=scorer.clip.logit_scale)


def _answer(correct: np.ndarray, accepted: np.ndarray | None, doubts: int) -> list[str]:
    """The answer in sentences."""
    count, share = len(correct), float(correct.mean())
    sentences = [
        f"{percent(share)} % of {count} held-out images are recognised as their class"
        + (
            "; there are too few of them for a threshold."
            if accepted is None
            else f", and the threshold accepts {percent(float(accepted.mean()))} % of them as ID."
        )
    ]
    if doubts:
        sentences.append(
            f"{doubts} {'image looks' if doubts == 1 else 'images look'} mislabelled. Check "
            f"{'it' if doubts == 1 else 'them'} below, and run fit again if you correct a label."
        )
    return sentences


def _summary(correct: np.ndarray, accepted: np.ndarray | None, prompts: Prompts) -> list[Number]:
    """Accuracy and acceptance with their intervals."""
    share = float(correct.mean())
    numbers = [Number("held-out images recognised", f"{percent(share)} %", interval(share, len(correct)))]
    if accepted is not None:
        kept = float(accepted.mean())
        numbers.append(Number("held-out images accepted as ID", f"{percent(kept)} %", interval(kept, len(accepted))))
    numbers.append(Number("recognised in training", f"{percent(prompts.training[-1].accuracy)} %"))
    return numbers


def _doubt_gallery(doubts: list[Doubt], sets: Sequence[EncodedSet], names: Sequence[str], bench: Workbench) -> Gallery:
    """Images whose labels are doubtful."""
    held = len(sets[0])
    shown = doubts[:DOUBTS]
    found = [(sets[0], d.image, d) if d.image < held else (sets[1], d.image - held, d) for d in shown]
    paths = [encoded.images.paths[place] for encoded, place, _ in found]
    cards = []
    for (encoded, place, doubt), path, jpeg in zip(
        found, paths, thumbnails(paths, bench.config.model.pixels), strict=True
    ):
        lines = [
            f"labelled {names[int(encoded.labels[place])]}",
            f"looks like {names[doubt.suggested]}",
            "held-out image" if encoded is sets[0] else "training image",
        ]
        cards.append(Thumbnail(jpeg, path.name, lines, path=str(path)))
    left = len(doubts) - len(cards)
    note = (
        "The prompts and the other images agree on another class than the label. The prompts were trained on the labels of "
        "training images, but not on held-out images." + (f" {left} more are not shown." if left else "")
    )
    return Gallery("Images that look mislabelled", note if doubts else "There are none.", cards)


def _lowest_gallery(scorer: Scorer, trained: EncodedSet, names: Sequence[str], bench: Workbench) -> Gallery:
    """Training images with the lowest scores; there may be a million, so only those that are shown become rows."""
    judged = scorer.judge(trained.features)
    order = np.argsort(judged.scores, kind="stable")[:LOWEST].tolist()
    paths = [trained.images.paths[i] for i in order]
    title, note = "Training images with the lowest scores", ""
    ood = np.zeros(len(trained), dtype=bool)
    if scorer.threshold is not None:
        ood = judged.scores < thresholds_of(judged.predictions, scorer.threshold, scorer.verdicts.by_class)
        note = f" The threshold still rejects {ood.sum():,} of all {len(trained):,}."
    cards = [
        Thumbnail(
            jpeg,
            path.name,
            [
                f"labelled {names[int(trained.labels[i])]}",
                f"predicted {names[int(judged.predictions[i])]}",
                f"score {judged.scores[i]:.4g}",
            ],
            badge="" if scorer.threshold is None else "OOD" if ood[i] else "ID",
            path=str(path),
        )
        for i, path, jpeg in zip(order, paths, thumbnails(paths, bench.config.model.pixels), strict=True)
    ]
    return Gallery(
        title,
        f"{len(cards)} images. The prompts were trained on them, so new images usually score lower.{note}",
        cards,
    )
