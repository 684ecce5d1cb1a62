"""The pictures of a report: drawn once, written as files with legends, and kept for the page without legends."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from negprompt_cli.choices import MapKind
from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.engine.metrics.detection import area_under_roc
from negprompt_cli.report import figures
from negprompt_cli.report.page import Mark, Picture, PictureGroup
from negprompt_cli.steps.shared.measure import Measured, Scored
from negprompt_cli.steps.shared.report_parts import Lines
from negprompt_cli.steps.shared.scored_sets import ScoredSet, ScoredSets
from negprompt_cli.wording import file_name, percent

MAP_IMAGES = 600
"""Largest number of images of one set, or prompts of one kind, on the map; more would hide each other."""
CURVES = 8
"""Largest number of scores in one picture of ROC curves."""
THRESHOLD_MARK = Mark("threshold that accepts 95 % of ID", -1)
BLOCK_BYTES = 64 << 20
"""Memory for the cosines of a block of images."""


@dataclass(frozen=True)
class Drawer:
    """Writes pictures to `folder` in `formats` and keeps them for the page; each run of a page has its own `prefix`."""

    folder: Path
    formats: Sequence[str]
    prefix: str

    def keep(self, name: str, title: str, alt: str, figure: Figure) -> Picture:
        """Write a figure's files and return the picture for the page."""
        for form in self.formats:
            atomic_write_bytes(self.folder / f"{self.prefix}{name}.{form}", figures.render(figure, form))
        files = [f"figures/{self.prefix}{name}.{form}" for form in self.formats]
        return Picture(title, figures.inline_svg(figure, f"{self.prefix}{name}", alt), files)


def score_pictures(sets: ScoredSets, drawer: Drawer) -> tuple[PictureGroup, PictureGroup | None]:
    """Densities of the main score, large, and of the other scores."""
    marks = [*figures.line_marks([label for label, _ in sets.labelled]), THRESHOLD_MARK]

    def draw(score: str, size: tuple[float, float]) -> Picture:
        figure = figures.distributions(
            score,
            f"{score} (higher = more ID)",
            [(label, scored.scores[score]) for label, scored in sets.labelled],
            threshold=sets.threshold(score),
            size=size,
        )
        return drawer.keep(f"scores-{score}", score, f"Distributions of {score} on ID and OOD images", figure)

    main, *others = sets.scores
    note = "Images to the right of the line are accepted as ID."
    first = PictureGroup(f"Scores: {main}", note, [draw(main, figures.WIDE)], marks)
    if not others:
        return first, None
    return first, PictureGroup("The other scores", "", [draw(score, figures.SIZE) for score in others], marks)


def roc_pictures(sets: ScoredSets, drawer: Drawer) -> PictureGroup:
    """ROC curves on each OOD set, of the main score and of those with the highest mean AUROC."""
    areas = {
        score: float(np.mean([area_under_roc(sets.curve(score, ood)) for ood in sets.ood_sets]))
        for score in sets.scores
    }
    main, *others = sets.scores
    shown = [main, *sorted(others, key=lambda score: -areas[score])[: CURVES - 1]]
    pictures = []
    for ood in sets.ood_sets:
        lowest = max(1e-4, min(0.1, 1 / len(ood)))
        figure = figures.roc(ood.name, {score: sets.curve(score, ood) for score in shown}, lowest=lowest)
        pictures.append(drawer.keep(f"roc-{file_name(ood.name)}", ood.name, f"ROC curves on {ood.name}", figure))
    note = (
        "ID is positive. At the dotted line 95 % of ID images are accepted. The thin curve is chance. AUROC is the mean "
        "over the OOD sets."
    ) + (f" Shown are {main} and the {CURVES - 1} best of {len(others)} other scores." if len(others) >= CURVES else "")
    marks = figures.line_marks([f"{score} (AUROC {percent(areas[score])})" for score in shown])
    return PictureGroup("ROC curves", note, pictures, marks)


def similarity_pictures(measured: Measured, sets: ScoredSets, drawer: Drawer) -> PictureGroup:
    """Cosines with the prompts (the paper's Figure 3)."""
    labels = [label for label, _ in sets.labelled]
    pictures = [
        drawer.keep(name, title, f"Cosines with the {title}", figures.distributions(title, "cosine", groups))
        for name, title, groups in _similarities(measured, labels)
    ]
    note = "Cosines of images with prompts (the paper's Figure 3)."
    return PictureGroup("Similarity to prompts", note, pictures, figures.line_marks(labels))


def _similarities(measured: Measured, labels: Sequence[str]) -> Iterator[tuple[str, str, figures.Groups]]:
    """File name, title and groups of each distribution of similarities."""
    bank, everything = measured.bank, (measured.id_set, *measured.ood_sets)

    def groups(values: Callable[[Scored], Tensor]) -> figures.Groups:
        found = [values(scored).double().numpy() for scored in everything]
        return list(zip(labels, found, strict=True))

    yield "similarity-positive", "nearest positive prompt", groups(lambda s: nearest(s, bank.positives)[0])
    if bank.negatives is not None:
        flat = bank.negatives.flatten(0, 1)
        # The mean of cosines is the cosine with the mean.
        mean = flat.mean(dim=0).cpu().float()
        yield "similarity-negative", "nearest negative prompt", groups(lambda s: nearest(s, flat)[0])
        yield "similarity-negative-mean", "mean over negative prompts", groups(lambda s: s.encoded.features @ mean)


def nearest(scored: Scored, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of M prompts to each image of a set, computed in blocks of images.

    Args:
        scored: N images.
        prompts: (M, F) prompt features.

    Returns:
        (N,) cosines and (N,) indices of prompts.
    """
    table = prompts.cpu().float().T
    block = max(1, BLOCK_BYTES // (4 * table.shape[1]))
    found = [(part @ table).max(dim=1) for part in scored.encoded.features.split(block)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def nearest_lines(measured: Measured, sets: ScoredSets) -> Lines:
    """Lines about an image's predicted class and its nearest negative prompt."""
    by_set = {id(plain): scored for plain, scored in zip(
        (sets.id_set, *sets.ood_sets), (measured.id_set, *measured.ood_sets), strict=True)}  # fmt: skip
    negatives = measured.bank.negatives

    def lines(scored: ScoredSet, image: int) -> list[str]:
        found = [f"predicted {sets.names[int(scored.predictions[image])]}"]
        if negatives is not None:
            feature = by_set[id(scored)].encoded.features[image]
            best = int((negatives.flatten(0, 1).cpu().float() @ feature).argmax())
            owner, number = divmod(best, negatives.shape[1])
            found.append(f"negative {sets.names[owner]} #{number + 1}")
        return found

    return lines


def map_pictures(measured: Measured, sets: ScoredSets, kind: MapKind, seed: int, drawer: Drawer) -> PictureGroup:
    """Images and prompts on a map (the paper's Figure 4)."""
    method = {"tsne": "t-SNE", "pca": "PCA"}[kind]
    clouds = _clouds(measured, sets, kind, seed)
    alt = f"{method} of images and prompts"
    figure = figures.feature_map(alt, clouds)
    note = (
        f"{method} (the paper's Figure 4), with at most {MAP_IMAGES} points of each kind. The mean ID image is subtracted "
        "from images, and the mean positive prompt from prompts."
    )
    return PictureGroup("Map", note, [drawer.keep("map", "", alt, figure)], figures.cloud_marks(clouds))


def _clouds(measured: Measured, sets: ScoredSets, kind: MapKind, seed: int) -> list[figures.Cloud]:
    """Points of images and prompts in two dimensions; if there are few ID classes, each has its name at its images."""
    generator = np.random.default_rng(seed)

    def some(count: int) -> npt.NDArray[np.intp]:
        return np.sort(generator.permutation(count)[:MAP_IMAGES])

    def rows(features: Tensor) -> npt.NDArray[np.float32]:
        return features.cpu().float()[torch.from_numpy(some(len(features)))].numpy()

    everything = [measured.id_set, *measured.ood_sets]
    mean_image = measured.id_set.encoded.features.mean(dim=0).numpy()
    mean_text = measured.bank.positives.mean(dim=0).cpu().float().numpy()
    chosen = [some(len(scored.encoded)) for scored in everything]
    parts = [
        (label, "id" if i == 0 else "ood", scored.encoded.features[torch.from_numpy(places)].numpy() - mean_image)
        for i, ((label, _), scored, places) in enumerate(zip(sets.labelled, everything, chosen, strict=True))
    ]
    parts.append(("positive prompts", "positive", rows(measured.bank.positives) - mean_text))
    if measured.bank.negatives is not None:
        parts.append(("negative prompts", "negative", rows(measured.bank.negatives.flatten(0, 1)) - mean_text))
    places = _project(np.concatenate([features for _, _, features in parts]), kind, seed)
    split = np.split(places, np.cumsum([len(features) for _, _, features in parts])[:-1])
    names = _class_places(split[0], sets.id_set.labels[chosen[0]], sets.names)
    return [
        figures.Cloud(label, role, points, names if role == "id" else ())
        for (label, role, _), points in zip(parts, split, strict=True)
    ]


def _class_places(
    points: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], names: Sequence[str]
) -> list[tuple[str, tuple[float, float]]]:
    """Names of classes at the median of their images; empty if there are too many to read."""
    present = np.unique(labels[labels >= 0]).tolist()
    if len(present) > figures.MAP_NAMES:
        return []
    middles = {label: np.median(points[labels == label], axis=0) for label in present}
    return [(names[label], (float(middle[0]), float(middle[1]))) for label, middle in middles.items()]


def _project(features: npt.NDArray[np.float32], kind: MapKind, seed: int) -> npt.NDArray[np.float64]:
    """Points (n, 2) of features (n, F): the first two principal components, or t-SNE of the first fifty components."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    wanted = 2 if kind == "pca" else min(50, *features.shape)
    reduced = PCA(n_components=wanted, random_state=seed).fit_transform(features.astype(np.float64))
    if kind == "tsne":
        perplexity = min(30.0, (len(features) - 1) / 3)
        reduced = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    return np.asarray(reduced, dtype=np.float64)
