"""What image features say of a data set, beside what its files say (`data.prepare.check`): near-duplicates, doubtful labels.

Features come from the cache where it has them. Nothing here is a problem for sure, so all of it is told as warnings: whether
two images are one, or a label is wrong, is decided by whoever looks at them.
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
from negprompt_cli.steps.shared.templates import encode_zero_shot
from negprompt_cli.steps.shared.workbench import Workbench

COPY = 0.9999
"""Images of a cosine below cannot have the same bytes, so their files need not be read."""


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same, but not the same file.

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
    """An image that looks like the class `suggested` rather than `label`, both by key; `margin` as in `Doubt`."""

    path: str
    label: str
    suggested: str
    margin: float


@dataclass(frozen=True)
class FeatureReport:
    """What features say: every pair and every doubtful label, None where it was not asked for, and findings with counts."""

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
        bench: the model; broken images are skipped where it says so.
        parts: the ID images by role, such as train and eval.
        ood: OOD sets to compare with the ID images.
        similarity: least similarity of near-duplicates, in (0, 1]; None not to look for them.
        labels: whether to look for doubtful labels.

    Raises:
        UsageError: `similarity` out of range, or labels are asked for where there are none.
        NegPromptError: the model cannot be had.
    """
    if similarity is not None and not 0 < similarity <= 1:
        raise UsageError(f"A similarity of {similarity:g} is not between 0 and 1, for example 0.9.")
    if labels and not all(images.classes for images in parts.values()):
        raise UsageError("Doubtful labels need images of classes, and these have no classes.")
    encoded = {role: bench.encode(images) for role, images in parts.items()}
    pairs = None
    if similarity is not None:
        foreign = [bench.encode(images) for images in ood]
        pairs = tuple(_pairs(encoded, foreign, similarity))
    doubts = tuple(_doubts(bench, list(encoded.values()))) if labels else None
    return FeatureReport(pairs, doubts, tuple(_findings(pairs, doubts)))


def write_listing(report: FeatureReport, path: Path) -> None:
    """Write every pair and every doubtful label as a row of a CSV file.

    Raises:
        NegPromptError: it cannot be written.
        UsageError: it exists.
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


def _pairs(parts: Mapping[str, EncodedSet], foreign: Sequence[EncodedSet], similarity: float) -> Iterator[Pair]:
    every = torch.cat([part.features for part in parts.values()])
    mean = every.mean(dim=0)

    def found(kind: str, images: EncodedSet, others: EncodedSet | None) -> Iterator[Pair]:
        known = None if others is None else others.features
        target = (images if others is None else others).images.paths
        for near in near_duplicates(images.features, known, mean=mean, similarity=similarity):
            path, other = images.images.paths[near.image], target[near.other]
            # The same file under two names is told by the check of files.
            if near.cosine < COPY or not (path == other or same_content([path], [other])[0]):
                yield Pair(kind, str(path), str(other), near.cosine, near.similarity)

    for part in parts.values():
        yield from found("near-duplicate", part, None)
    if "train" in parts and "eval" in parts:
        yield from found("near-leak", parts["eval"], parts["train"])
    for images in foreign:
        for part in parts.values():
            yield from found("near-overlap", images, part)


def _doubts(bench: Workbench, parts: Sequence[EncodedSet]) -> Iterator[DoubtfulLabel]:
    classes = parts[0].images.classes
    features: Tensor = torch.cat([part.features for part in parts])
    labels = torch.cat([part.labels for part in parts])
    paths = [path for part in parts for path in part.images.paths]
    clip = bench.clip
    names = [c.name for c in classes]
    positives = encode_zero_shot(clip, names, bench.config.evaluate.template, budget=bench.budget).cpu().float()
    for doubt in label_doubts(features, labels, positives, scale=clip.logit_scale):
        label, suggested = classes[int(labels[doubt.image])], classes[doubt.suggested]
        yield DoubtfulLabel(str(paths[doubt.image]), label.key, suggested.key, doubt.margin)


def _findings(pairs: Iterable[Pair] | None, labels: Sequence[DoubtfulLabel] | None) -> Iterator[Finding]:
    said = {
        "near-duplicate": "pairs of images of one part are nearly the same",
        "near-leak": "evaluation images are nearly the same as a training image",
        "near-overlap": "OOD images are nearly the same as an ID image",
    }
    for kind, text in said.items():
        own = [pair for pair in pairs or () if pair.kind == kind]
        if own:
            items = tuple(f"{pair.path} ~ {pair.other} ({pair.similarity:.3f})" for pair in own)
            yield Finding("warning", kind, f"{len(own)} {text}", items)
    if labels:
        items = tuple(f"{one.path}: {one.label}, looks like {one.suggested} ({one.margin:.3f})" for one in labels)
        text = f"{len(labels)} images look like another class than their label says; look at them"
        yield Finding("warning", "label", text, items)
