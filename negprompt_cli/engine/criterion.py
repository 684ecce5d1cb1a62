"""A criterion of ID data alone: how well scores tell ID images from ID images that play OOD, near and far.

From class embeddings and labelled ID features of any backbone, small problems are made. Some classes are left out; half of
the images of each kept class learns, the other half is judged against what plays OOD:

    near    images of classes left out at random (30 %)
    far     classes ordered along a principal direction of their mean images: one half is kept and the quarter at the other
            end plays OOD, with a gap between them; once for either end of a direction
    mixed   judged images of the near problems whose principal components are permuted among them: the usual parts of an
            image in combinations that no ID image shows; it needs no image of another kind

Left-out classes show the near side only: on real CLIP features they prefer MCM, which then loses on other kinds of images.
The far side consists of real images that differ from ID as a whole, once each way, so what profits from one sign of a
direction is found out by the other. Settings and scores may be chosen by these figures, since no OOD image and no
evaluation image is looked at. Leaves out: how far real OOD images are, which ID data cannot say.
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
"""Share of the classes that is left out of a near problem."""
LEAST_CLASSES = 4
"""Fewest classes of which a half can be kept and a quarter left out."""
LEAST_JUDGED = 10
"""Fewest images on either side of a problem; of fewer an AUROC says nothing."""
MOST_IMAGES = 4000
"""Images that take part; of more, equally many are drawn of each class, so the time is bounded."""

Learn = Callable[[Tensor, Tensor, Tensor], ScoreInputs]
"""Positives (K, D), images (n, D) and labels (n,) to what scores compare an image with."""


@dataclass(frozen=True)
class Figures:
    """How well a score does on a side, the mean over its problems, as fractions."""

    auroc: float
    fpr95_id_positive: float


@dataclass(frozen=True)
class Criterion:
    """The figures of each side and score.

    `sides`: by side, one of `SIDES`, and score. `problems`: how many small problems they are means of.
    """

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
    """Images that learn, images that are judged, and images that play OOD, by side; labels count the kept classes."""

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
    """Judge scores by ID data alone.

    Args:
        positives: (K, D) L2-normalised class embeddings; classes without images take no part.
        images: (N, D) L2-normalised features of ID images.
        labels: (N,) their classes.
        learn: learns from a part of the classes and images.
        scores: by name; those of the registry that class embeddings and `learn` allow.
        seed: of all draws.
        draws: near problems, and as many mixed ones.
        directions: principal directions along which far problems are made, two for each.

    Raises:
        UsageError: too few classes or images; says how many are needed.
    """
    found: dict[str, dict[str, list[Figures]]] = {side: {score: [] for score in scores} for side in SIDES}
    for problem in problems(positives, images, labels, seed=seed, draws=draws, directions=directions):
        inputs = learn(problem.positives, problem.images, problem.labels)
        judged = compute_scores(problem.judged, inputs, scores).scores
        for side, features in problem.ood.items():
            foreign = compute_scores(features, inputs, scores).scores
            for score in scores:
                made = evaluate_scores(judged[score], foreign[score])
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
    """The problem of kept and left-out classes; half of each kept class's images, rounded up, learns."""
    kept, left = kept.sort().values.to(labels.device), left.to(labels.device)
    place = torch.full((len(positives),), -1, device=labels.device)
    place[kept] = torch.arange(len(kept), device=labels.device)
    ranks = _ranks_within(labels, generator)
    learns = ranks < (labels.bincount()[labels] + 1) // 2
    own = place[labels] >= 0
    judged, ood = images[own & ~learns], images[torch.isin(labels, left)]
    if min(len(judged), len(ood)) < LEAST_JUDGED:
        raise UsageError(
            f"With some classes left out, {len(judged)} ID images of the others are left to judge by and {len(ood)} play "
            f"OOD; at least {LEAST_JUDGED} are needed of either."
        )
    return Problem(positives[kept], images[own & learns], place[labels[own & learns]], judged, {side: ood})


def _even(labels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Indices, ascending, of images drawn equally of each class, two of each at least, about `most` in all."""
    each = max(2, most // int(labels.max() + 1))
    return (_ranks_within(labels, generator) < each).nonzero().flatten()


def _ranks_within(labels: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) the place of each image in a random order of its class's images, from 0."""
    shuffled = torch.randperm(len(labels), generator=generator).to(labels.device)
    grouped = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(labels)
    ranks[grouped] = torch.arange(len(labels), device=labels.device) - starts[labels[grouped]]
    return ranks


def _permuted(images: Tensor, generator: torch.Generator) -> Tensor:
    """(n, D): images whose principal components are permuted among them, each independently; mean and covariance stay."""
    mean = images.mean(0)
    axes = torch.linalg.svd(images - mean, full_matrices=False).Vh
    components = (images - mean) @ axes.T
    orders = torch.rand(components.shape, generator=generator).argsort(0).to(components.device)
    return normalize(mean + components.gather(0, orders) @ axes, dim=1)
