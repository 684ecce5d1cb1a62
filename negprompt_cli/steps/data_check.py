"""Checks of a data set by its image features: near-duplicates and doubtful labels. `data.prepare.check` checks its files.

Features are taken from the cache if it has them. All findings are warnings, because only a person can decide whether two
images are the same or a label is wrong.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from negprompt_cli.data.encoding.features import EncodedSet
from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.data.prepare.check import Finding
from negprompt_cli.data.sets.imagesets import ImageSet
from negprompt_cli.data.sets.same_content import same_content
from negprompt_cli.engine.label_doubts import label_doubts
from negprompt_cli.engine.near_duplicates import near_duplicates
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.workbench import Workbench

COPY = 0.9999
"""Images with a lower cosine cannot have the same bytes, so their files are not read."""


@dataclass(frozen=True)
class Pair:
    """Two images that are almost equal, but not the same file.

    `kind`: near-duplicate within a part, near-leak from the evaluation part (`path`) to the training part (`other`), or
    near-overlap from an OOD set (`path`) to the ID images (`other`). `cosine` and `similarity` as in `NearDuplicate`.
    """

    kind: str
    path: str
    other: str
    cosine: float
    similarity: float


@dataclass(frozen=True)
class DoubtfulLabel:
    """An image that looks more like the class `suggested` than like `label` (both keys); `margin` as in `Doubt`."""

    path: str
    label: str
    suggested: str
    margin: float


@dataclass(frozen=True)
class FeatureReport:
    """All pairs and all doubtful labels (None if they were not looked for), and findings with counts."""

    pairs: tuple[Pair, ...] | None
    labels: tuple[DoubtfulLabel, ...] | None
    findings: tuple[Finding, ...]


def check_features(
    bench: Workbench,
    parts: Mapping[str, ImageSet],
    ood: Sequence[ImageSet],
    *,
    similarity: float | None,
    labels: bool,
) -> FeatureReport:
    """Look for near-duplicates and doubtful labels.

    Args:
        bench: the model, and whether broken images are skipped.
        parts: the ID images by role, such as train and eval.
        ood: OOD sets to compare with the ID images.
        similarity: lowest similarity of near-duplicates, in (0, 1]; None does not look for them.
        labels: whether to look for doubtful labels.

    Raises:
        UsageError: `similarity` is out of range, or `labels` is true and the images have no labels.
    """
    if similarity is not None and not 0 < similarity <= 1:
        raise UsageError(f"The similarity {similarity:g} is not between 0 and 1. Use 0.9, for example.")
    if labels and not all(images.classes for images in parts.values()):
        raise UsageError("Label errors cannot be found, because these images have no classes.")
    encoded = {role: bench.encode(images) for role, images in parts.items()}
    pairs = None
    if similarity is not None:
        ood_sets = [bench.encode(images) for images in ood]
        pairs = tuple(_pairs(encoded, ood_sets, similarity))
    doubts = tuple(_doubts(bench, list(encoded.values()))) if labels else None
    return FeatureReport(pairs, doubts, tuple(_findings(pairs, doubts)))


def write_listing(report: FeatureReport, path: Path) -> None:
    """Write every pair and every doubtful label as a row of a CSV file.

    Raises:
        UsageError: the file exists.
    """
    if path.exists():
        raise UsageError(f"{path} exists. Choose another file for the listing.")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["kind", "path", "other", "cosine", "similarity", "label", "suggested", "margin"])
    for pair in report.pairs or ():
        rows.writerow([pair.kind, pair.path, pair.other, f"{pair.cosine:.6f}", f"{pair.similarity:.6f}", "", "", ""])
    for doubt in report.labels or ():
        rows.writerow(["label", doubt.path, "", "", "", doubt.label, doubt.suggested, f"{doubt.margin:.6f}"])
    atomic_write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _pairs(parts: Mapping[str, EncodedSet], ood_sets: Sequence[EncodedSet], similarity: float) -> Iterator[Pair]:
    every = torch.cat([part.features for part in parts.values()])
    mean = every.mean(dim=0)

    def found(kind: str, images: EncodedSet, others: EncodedSet | None) -> Iterator[Pair]:
        known = None if others is None else others.features
        target = (images if others is None else others).images.paths
        for near in near_duplicates(images.features, known, mean=mean, similarity=similarity):
            path, other = images.images.paths[near.image], target[near.other]
            # The check of files reports a file that has two names.
            if near.cosine < COPY or not (path == other or same_content([path], [other])[0]):
                yield Pair(kind, str(path), str(other), near.cosine, near.similarity)

    for part in parts.values():
        yield from found("near-duplicate", part, None)
    if "train" in parts and "eval" in parts:
        yield from found("near-leak", parts["eval"], parts["train"])
    for images in ood_sets:
        for part in parts.values():
            yield from found("near-overlap", images, part)


def _doubts(bench: Workbench, parts: Sequence[EncodedSet]) -> Iterator[DoubtfulLabel]:
    classes = parts[0].images.classes
    features: Tensor = torch.cat([part.features for part in parts])
    labels = torch.cat([part.labels for part in parts])
    paths = [path for part in parts for path in part.images.paths]
    clip = bench.clip
    names = [c.name for c in classes]
    positives = bench.encode_texts(names, bench.config.evaluate.template).cpu().float()
    for doubt in label_doubts(features, labels, positives, scale=clip.logit_scale):
        label, suggested = classes[int(labels[doubt.image])], classes[doubt.suggested]
        yield DoubtfulLabel(str(paths[doubt.image]), label.key, suggested.key, doubt.margin)


def _findings(pairs: Iterable[Pair] | None, labels: Sequence[DoubtfulLabel] | None) -> Iterator[Finding]:
    kinds = {
        "near-duplicate": "pairs of images in one part are almost equal",
        "near-leak": "evaluation images are almost equal to a training image",
        "near-overlap": "OOD images are almost equal to an ID image",
    }
    for kind, text in kinds.items():
        own = [pair for pair in pairs or () if pair.kind == kind]
        if own:
            items = tuple(f"{pair.path} ~ {pair.other} ({pair.similarity:.3f})" for pair in own)
            yield Finding("warning", kind, f"{len(own)} {text}", items)
    if labels:
        items = tuple(f"{one.path}: {one.label}, looks like {one.suggested} ({one.margin:.3f})" for one in labels)
        text = f"{len(labels)} images look more like another class than like their own. Check their labels."
        yield Finding("warning", "label", text, items)
