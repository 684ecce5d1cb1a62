"""A criterion of ID data alone: how well do scores separate ID images from other ID images that are used as OOD?

The criterion makes small problems from class embeddings and labelled ID features of any backbone. Half of the images of
each remaining class are used for learning, and the other half as ID test images. There are three kinds of OOD images:

    near    the images of 30 % of the classes, drawn at random
    far     the classes are ordered along a principal direction of their mean images. Half of them remain; the quarter at the
            other end is used as OOD, so there is a gap between the two. Each direction gives one problem for each end
    mixed   the ID test images of the near problems, with each principal component permuted among the images. This combines
            usual parts of images as no ID image does, and needs no other images

The near side alone would mislead: on real CLIP features it prefers MCM, which then loses on other kinds of images. The far
side has real images that differ from ID images as a whole. It uses both ends, so a score that profits from the sign of a
direction does badly at the other end. No OOD image and no evaluation image is used, so settings and scores may be chosen by
these figures. ID data cannot tell how far away real OOD images are.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.engine.metrics.detection import evaluate_scores
from negprompt_cli.engine.scores.compute import compute_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError

SIDES = ("near", "far", "mixed")
NEAR_SHARE = 0.3
"""Share of the classes that a near problem uses as OOD."""
LEAST_CLASSES = 4
"""Fewest classes: one half remains and a quarter is used as OOD."""
LEAST_JUDGED = 10
"""Fewest ID and OOD test images of a problem; with fewer, AUROC means nothing."""
MOST_IMAGES = 4000
"""Images that are used, to bound the time. If there are more, the same number is drawn from each class."""

Learn = Callable[[Tensor, Tensor, Tensor], ScoreInputs]
"""A function of positives (K, D), images (n, D) and labels (n,) that returns what scores compare an image with."""


@dataclass(frozen=True)
class Figures:
    """The metrics of a score on one side, as fractions: means over its problems."""

    auroc: float
    fpr95_id_positive: float


@dataclass(frozen=True)
class Criterion:
    """The figures by side (one of `SIDES`) and score, and the number of problems that they come from."""

    sides: Mapping[str, Mapping[str, Figures]]
    problems: int

    def overall(self, score: str) -> Figures:
        """The mean over the sides, each with the same weight."""
        return mean_of(rows[score] for rows in self.sides.values())

    def document(self) -> dict[str, dict[str, dict[str, float]]]:
        """As JSON values, by side, score and name of the figure."""
        return {side: {score: asdict(one) for score, one in rows.items()} for side, rows in self.sides.items()}


@dataclass(frozen=True, eq=False)
class Problem:
    """Training images with their labels (among the remaining classes), ID test images, and by side the OOD images."""

    positives: Tensor
    images: Tensor
    labels: Tensor
    judged: Tensor
    ood: Mapping[str, Tensor]


def measure_criterion(
    positives: Tensor,
    images: Tensor,
    labels: Tensor,
    learn: Learn,
    *,
    scores: Sequence[str] = ("negprompt", "mcm", "max-logit"),
    seed: int,
    draws: int = 2,
    directions: int = 1,
) -> Criterion:
    """Measure scores with ID data alone.

    Args:
        positives: (K, D) L2-normalised class embeddings; classes without images are not used.
        images: (N, D) L2-normalised features of ID images.
        labels: (N,) their classes.
        learn: is called with a part of the classes and images.
        scores: names from the registry; each score must find what it needs in the result of `learn`.
        seed: random seed of all draws.
        draws: number of near problems, and of mixed ones.
        directions: number of principal directions for far problems; each gives two.

    Raises:
        UsageError: too few classes or images; the message says how many are needed.
    """
    found: dict[str, dict[str, list[Figures]]] = {side: {score: [] for score in scores} for side in SIDES}
    for problem in problems(positives, images, labels, seed=seed, draws=draws, directions=directions):
        inputs = learn(problem.positives, problem.images, problem.labels)
        judged = compute_scores(problem.judged, inputs, scores).scores
        for side, features in problem.ood.items():
            ood_scores = compute_scores(features, inputs, scores).scores
            for score in scores:
                made = evaluate_scores(judged[score], ood_scores[score])
                found[side][score].append(Figures(made.auroc, made.fpr95_id_positive))
    sides = {side: {score: mean_of(each) for score, each in rows.items()} for side, rows in found.items()}
    return Criterion(sides, sum(len(rows[scores[0]]) for rows in found.values()))


def mean_of(figures: Iterable[Figures]) -> Figures:
    """The mean of several figures."""
    each = list(figures)
    return Figures(statistics.fmean(one.auroc for one in each), statistics.fmean(one.fpr95_id_positive for one in each))


def problems(
    positives: Tensor, images: Tensor, labels: Tensor, *, seed: int, draws: int, directions: int
) -> Iterator[Problem]:
    """Make the problems; arguments and errors are those of `measure_criterion`."""
    present, places = labels.unique(return_inverse=True)
    if len(present) < LEAST_CLASSES:
        raise UsageError(
            f"{len(present)} classes have images, and at least {LEAST_CLASSES} are needed to leave some out."
        )
    positives = positives[present]
    generator = torch.Generator().manual_seed(seed)
    chosen = _even(places, MOST_IMAGES, generator)
    images, labels, count = images[chosen], places[chosen], len(present)
    for _ in range(draws):
        order = torch.randperm(count, generator=generator)
        out = max(1, round(NEAR_SHARE * count))
        problem = _problem(positives, images, labels, order[out:], order[:out], "near", generator)
        yield Problem(
            problem.positives,
            problem.images,
            problem.labels,
            problem.judged,
            {**problem.ood, "mixed": _permuted(problem.judged, generator)},
        )
    means = images.new_zeros(count, images.shape[1]).index_add_(0, labels, images) / labels.bincount()[:, None]
    centred = means - means.mean(0)
    for direction in torch.linalg.svd(centred, full_matrices=False).Vh[:directions]:
        order = (centred @ direction).argsort().cpu()
        for ranked in (order, order.flip(0)):
            yield _problem(positives, images, labels, ranked[: count // 2], ranked[-(count // 4) :], "far", generator)


def _problem(
    positives: Tensor, images: Tensor, labels: Tensor, kept: Tensor, left: Tensor, side: str, generator: torch.Generator
) -> Problem:
    """The problem of kept and left-out classes; half of the images of each kept class (rounded up) are for training."""
    kept, left = kept.sort().values.to(labels.device), left.to(labels.device)
    place = torch.full((len(positives),), -1, device=labels.device)
    place[kept] = torch.arange(len(kept), device=labels.device)
    ranks = _ranks_within(labels, generator)
    learns = ranks < (labels.bincount()[labels] + 1) // 2
    own = place[labels] >= 0
    judged, ood = images[own & ~learns], images[torch.isin(labels, left)]
    if min(len(judged), len(ood)) < LEAST_JUDGED:
        raise UsageError(
            f"If some classes are left out, there are {len(judged)} test images of the other classes and {len(ood)} images "
            f"to use as OOD; at least {LEAST_JUDGED} of each are needed."
        )
    return Problem(positives[kept], images[own & learns], place[labels[own & learns]], judged, {side: ood})


def _even(labels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Ascending indices of about `most` images: the same number from each class, at least two."""
    each = max(2, most // int(labels.max() + 1))
    return (_ranks_within(labels, generator) < each).nonzero().flatten()


def _ranks_within(labels: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) the place of each image in a random order of the images of its class, from 0."""
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    grouped = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(labels)
    ranks[grouped] = torch.arange(len(labels), device=labels.device) - starts[labels[grouped]]
    return ranks


def _permuted(images: Tensor, generator: torch.Generator) -> Tensor:
    """(n, D) images with each principal component permuted independently; mean and variances of components stay."""
    mean = images.mean(0)
    axes = torch.linalg.svd(images - mean, full_matrices=False).Vh
    components = (images - mean) @ axes.T
    orders = torch.rand(components.shape, generator=generator).argsort(0).to(components.device)
    return normalize(mean + components.gather(0, orders) @ axes, dim=1)
