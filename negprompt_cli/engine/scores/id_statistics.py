"""ID statistics: how ID images usually compare with the prompts, in closed form and without units.

The default score (`mcm_extended`) uses five statistics of an image f. Each is higher for ID images. P_i are the K positives
with mean P, N is the mean negative, p = <P, f> is the similarity of f to all class names, m is a typical ID image, and
m + M_i is a typical image of class i:

    b     max_i <P_i, f>                      Is f similar to some class?
    b|p   b minus its regression on p         Is it more similar than usual for its p? Max-logit at slope 0; almost MCM at 1
    c     max_i cos(f - m, M_i)               Does it differ from m in the direction of some class?
    g     b among the other K - 1 cosines     Is one class clearly ahead of the others, in units of their spread?
    n|p   -<N, f> minus its regression on p   Is it unlike the negative prompts?

g is b minus the mean of the other cosines of the same image, divided by their standard deviation. Speaker verification calls
this test normalisation (Auckenthaler, Carey and Lloyd-Thomas, Digital Signal Processing 10, 2000). Few classes say little
about the deviation, so its variance is joined by `PRIOR_CLASSES` times the variance of a typical image:
g = (b - mean) / sqrt((S + 4 v) / (K - 2 + 4)), where S is the sum of the K - 1 squared differences from their mean, and v =
sum_i (<P_i - P, m>^2 + (P_i - P)' C (P_i - P)) / (K - 1) with the covariance C of the residuals below.

Each statistic is used as z = (x - slope * p - mean) / deviation with the mean and deviation of ID images. So no constant
depends on how widely a model's cosines spread, on its logit scale, or on the number of classes.

M_i combines the prompt and the images of class i. By the prompt alone it is a (P_i - P), where a is how far ID images follow
the direction of their class's prompt. The n images of the class have the mean residual R from that. Then M_i =
a (P_i - P) + n / (n + kappa) R is the posterior mean, if the variance of class means around their prompts is 1 / kappa of
the variance of images within a class. So a prompt counts as much as kappa images.

Mean and deviation of b, b|p, c and g come from the ID training images; in c no image counts for its own class. Training
pushes the negatives away from these images, so n|p is measured on images that were left out: negatives are learned as
embeddings from a part of the images, and n|p of the others is expressed in units of that part (`held_out`). Leaving out a
quarter of the images at a time gives n|p for new images of the trained classes. Leaving out half of the classes at a time
gives it for classes that the negatives have not seen, as after a transfer to other names.

For other class names, an ID image of class k is modelled as m + a (P_k - P) + r, with a and the residual r distributed as in
training. Images are drawn from this model for the old and for the new names, and the differences between the two correct
each mean and deviation (`IdStatistics.follow`). No new images are needed. Names that stay keep the residuals of their
images, and if no name changes, nothing changes.

No OOD image is used.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.errors import UsageError

TERMS = ("b", "b|p", "c", "g", "n|p")
"""The statistics, in the order of the rows of `IdStatistics.terms`."""
KAPPA = 4.0
"""Number of images that a prompt counts as much as. By the criterion, 0.5 to 8 differ by at most 0.1 AUROC. An estimate from
variances gives 4.5 for the small CLIP and 1.5 for ViT-B/32."""
PRIOR_CLASSES = 4.0
"""Number of classes that the variance v counts as much as in g. By the criterion 0 and 16 differ by at most 0.02 AUROC if
there are 50 or more classes; with 8 and 16 classes 4 is better than both, by 0.15 to 0.6."""
_N = TERMS.index("n|p")
IMAGE_FOLDS, CLASS_FOLDS = 4, 2
"""Number of parts of the images and of the classes; one part at a time is left out when negatives are learned."""
LEAST_IMAGES = 3
"""Fewest ID images with a meaningful mean and deviation."""
_DRAWS = 4096
_FLAT = 1e-6
"""Deviations of cosines below this are rounding errors; the statistic is then left out."""

LearnNegatives = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function of images (n, D), labels (n,) and positives (K, D) that returns negatives (K, p, D)."""


class ClassView(NamedTuple):
    """The classes as seen from the typical ID image: what c and g of an image are computed with."""

    mean: Tensor
    """(D,) m, the typical ID image."""
    directions: Tensor
    """(K, D) M_i, L2-normalised."""
    variance: Tensor
    """() v, the expected variance of an ID image's cosines with the K positives."""


@dataclass(frozen=True, eq=False)
class IdStatistics:
    """How ID images compare with prompts: float32 tensors on one device, small enough for an artifact.

    Attributes:
        mean: (D,) m, the typical ID image, with a norm of at most 1.
        covariance: (D, D) of the residuals r.
        follow_mean, follow_deviation: () mean and deviation of a, how far an image follows its class's prompt.
        center: (D,) mean of the positives of the measurement.
        shifts: (K, D) n / (n + kappa) R of each class: where its images are, relative to what its prompt says.
        terms: (5, 3) slope, mean and deviation of each of `TERMS`. A term with a deviation of 0 is left out.
        held_out: (2,) mean and deviation of n|p of images that the negatives have not seen, in units of images that they
            have seen. `terms` includes this correction.
        unseen: (2,) the same for classes that the negatives have not seen, in units of the row of n|p in `terms`.

    Raises:
        ValueError: shapes do not fit, or a number is not finite.
    """

    mean: Tensor
    covariance: Tensor
    follow_mean: Tensor
    follow_deviation: Tensor
    center: Tensor
    shifts: Tensor
    terms: Tensor
    held_out: Tensor
    unseen: Tensor

    def __post_init__(self) -> None:
        d = self.mean.shape[0] if self.mean.ndim == 1 else 0
        shapes = {
            "shifts": (self.shifts.shape[0] if self.shifts.ndim else 0, d),
            "mean": (d,),
            "covariance": (d, d),
            "follow_mean": (),
            "follow_deviation": (),
            "center": (d,),
            "terms": (len(TERMS), 3),
            "held_out": (2,),
            "unseen": (2,),
        }
        for name, shape in shapes.items():
            tensor: Tensor = getattr(self, name)
            if not d or tuple(tensor.shape) != shape or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} must be finite and of shape {shape}, got {tuple(tensor.shape)}")
        if float(torch.linalg.vector_norm(self.mean.double())) > 1.01:
            raise ValueError("mean must be at most 1 long, as a mean of L2-normalised features is")
        if bool((self.terms[:, 2] < 0).any()) or bool(self.held_out[1] <= 0) or bool(self.unseen[1] <= 0):
            raise ValueError("terms must have deviations of at least 0, held_out and unseen ones above 0")

    @classmethod
    def measure(
        cls,
        images: Tensor,
        labels: Tensor,
        positives: Tensor,
        negatives: Tensor,
        learn: LearnNegatives,
        *,
        seed: int,
        added: Tensor | None = None,
    ) -> "IdStatistics":
        """Measure the statistics of ID training images.

        Args:
            images: (N, D) L2-normalised features, N at least `LEAST_IMAGES`.
            labels: (N,) their classes.
            positives: (K, D) features of the positive prompts.
            negatives: (K, p, D) features of the negative prompts.
            learn: learns negatives as embeddings from a part of the images.
            seed: random seed for the division of images and classes.
            added: (K,) bool, classes that were added after the negatives were learned; None if there are none. The
                negatives have not seen their images, so n|p is measured on them directly, in units of the images of the
                other classes.

        Raises:
            UsageError: too few images of the classes that the negatives were learned on.
        """
        fresh = torch.zeros_like(labels, dtype=torch.bool) if added is None else added[labels]
        none = images.new_tensor([0.0, 1.0])
        found = cls._of(images, labels, positives, negatives, fresh, held_out=none, unseen=none)
        z = _standardised(images[fresh], positives, negatives, found.terms[_N])
        return found._held_out(images[~fresh], labels[~fresh], positives, learn, z, seed=seed)

    def of_part(self, images: Tensor, labels: Tensor, positives: Tensor, negatives: Tensor) -> "IdStatistics":
        """The statistics of a part of the ID images or classes, with negatives that were learned from this part.

        The corrections `held_out` and `unseen` are those of this object, so negatives need not be learned again. Arguments
        and errors are those of `measure`.
        """
        fresh = torch.zeros_like(labels, dtype=torch.bool)
        return self._of(images, labels, positives, negatives, fresh, held_out=self.held_out, unseen=self.unseen)

    @classmethod
    def _of(
        cls,
        images: Tensor,
        labels: Tensor,
        positives: Tensor,
        negatives: Tensor,
        fresh: Tensor,
        *,
        held_out: Tensor,
        unseen: Tensor,
    ) -> "IdStatistics":
        if (seen := int((~fresh).sum())) < LEAST_IMAGES:
            raise UsageError(
                f"The default score needs at least {LEAST_IMAGES} ID images for a mean and a deviation; there are {seen}."
            )
        offsets = (positives - positives.mean(0))[labels]
        plain = images.mean(0)
        # How far each image follows the direction of its class; 0 with one class, which has no direction.
        a = ((images - plain) * offsets).sum(1) / offsets.square().sum(1).clamp(min=1e-12)
        rest = images - a[:, None] * offsets
        mean = rest.mean(0)
        rest = rest - mean
        beside = rest + (a - a.mean())[:, None] * offsets
        counts = labels.bincount(minlength=len(positives))[:, None]
        sums = torch.zeros_like(positives).index_add_(0, labels, beside)
        shifts = sums / (counts + KAPPA)
        covariance = rest.T @ rest / (len(images) - 1)
        view = _view(positives, mean, covariance, a.mean(), shifts)
        found = _raw(images, positives, negatives, view)
        if "c" in found:
            others = a.mean() * offsets + (sums[labels] - beside) / (counts[labels] - 1 + KAPPA)
            found["c"] = _c_without_own(images, labels, view, others)
        terms = _standards(found)
        if bool(fresh.any()):
            terms[_N] = _standards({name: values[~fresh] for name, values in found.items()})[_N]
        terms[_N] = _shifted(terms[_N], held_out)
        return cls(
            mean=mean,
            covariance=covariance,
            follow_mean=a.mean(),
            follow_deviation=a.std(),
            center=positives.mean(0),
            shifts=shifts,
            terms=terms,
            held_out=held_out,
            unseen=unseen,
        )

    def follow(self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> "IdStatistics":
        """The statistics for other class names.

        Args:
            old: positives (K, D) and negatives (K, p, D) of the measurement.
            new: those of the other names.

        Returns:
            Images are drawn for the old and for the new names. Means are moved by the difference between the two, and
            deviations are scaled by the ratio. Terms that the old names did not have are taken from the drawn images.
        """
        slopes = self.terms[:, 0]
        cosines, place = (new[0] @ old[0].T).max(1)
        same = cosines > 1 - 1e-4
        shifts = torch.where(same[:, None], self.shifts[place], 0)
        before, after = (
            _standards(self._drawn(*prompts, known), slopes) for prompts, known in ((old, self.shifts), (new, shifts))
        )
        known = (self.terms[:, 2] > 0) & (before[:, 2] > 0)
        ratio = after[:, 2] / before[:, 2].clamp(min=_FLAT)
        moved = torch.stack([slopes, self.terms[:, 1] + after[:, 1] - before[:, 1], self.terms[:, 2] * ratio], dim=1)
        terms = torch.where(known[:, None], moved, after)
        # The draws are the same for every set of names, so without a change the ratio is 1 and the difference 0.
        terms[_N] = _mixed(terms[_N], self.unseen, float((~same).float().mean()))
        return replace(self, mean=self._usual(new[0]), center=new[0].mean(0), shifts=shifts, terms=terms)

    def view(self, positives: Tensor) -> ClassView:
        """The view of the classes whose positives (K, D) these statistics belong to."""
        return _view(positives, self.mean, self.covariance, self.follow_mean, self.shifts)

    def to(self, device: torch.device, dtype: torch.dtype) -> "IdStatistics":
        """The same on another device and in another floating point type."""
        return replace(self, **{f.name: getattr(self, f.name).to(device, dtype) for f in fields(self)})

    def _usual(self, positives: Tensor) -> Tensor:
        """(D,) the typical ID image of other classes: m moves with the mean of their prompts."""
        return self.mean + self.follow_mean * (positives.mean(0) - self.center)

    def _drawn(self, positives: Tensor, negatives: Tensor, shifts: Tensor) -> dict[str, Tensor]:
        """The statistics (_DRAWS,) of images drawn from the model of this file for the classes of (K, D) positives.

        For classes with `shifts` (K, D), the covariance of the shifts is subtracted from that of the noise.
        """
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(_DRAWS, len(self.mean), generator=generator).to(self.mean)
        a = self.follow_mean + self.follow_deviation * torch.randn(_DRAWS, 1, generator=generator).to(self.mean)
        k = len(positives)
        order = torch.randperm(k, generator=generator) if k > _DRAWS else torch.arange(_DRAWS) * k // _DRAWS
        classes = order[:_DRAWS].to(positives.device)
        residual = self.covariance - self.shifts.T @ self.shifts / len(self.shifts)
        noise = torch.where(shifts.any(1)[classes, None], z @ _root(residual), z @ _root(self.covariance))
        mean = self._usual(positives)
        images = normalize(mean + (a * (positives - positives.mean(0))[classes] + shifts[classes] + noise), dim=-1)
        view = _view(positives, mean, self.covariance, self.follow_mean, shifts)
        return _raw(images, positives, negatives, view)

    def _held_out(
        self, images: Tensor, labels: Tensor, positives: Tensor, learn: LearnNegatives, fresh: Tensor, *, seed: int
    ) -> "IdStatistics":
        """The same with n|p of images that the negatives have not seen, from the same classes and from other classes.

        `fresh` (n,) are standardised n|p of further images that they have not seen.
        """
        generator = torch.Generator().manual_seed(seed)
        terms, seen, other = self.terms.clone(), self.held_out, self.unseen
        by_image = (torch.randperm(len(images), generator=generator) % IMAGE_FOLDS).to(labels.device)
        z = held_out(images, labels, positives, learn, folds=by_image)
        every = torch.cat([z, fresh])
        if len(z) >= LEAST_IMAGES and bool(terms[_N, 2] > 0) and bool(every.std() > 0):
            seen = torch.stack([every.mean(), every.std()])
            terms[_N] = _shifted(terms[_N], seen)
            by_class = (torch.randperm(len(positives), generator=generator) % CLASS_FOLDS).to(labels.device)[labels]
            u = held_out(images, labels, positives, learn, folds=by_class)
            if len(u) >= LEAST_IMAGES and bool(u.std() > 0):
                other = torch.stack([(u.mean() - every.mean()) / every.std(), u.std() / every.std()])
        return replace(self, terms=terms, held_out=seen, unseen=other)


def held_out(images: Tensor, labels: Tensor, positives: Tensor, learn: LearnNegatives, *, folds: Tensor) -> Tensor:
    """Standardised n|p of each image against negatives that were learned without its fold.

    Args:
        images: (N, D).
        labels: (N,).
        positives: (K, D).
        learn: learns negatives from a part of the images.
        folds: (N,) the fold of each image.

    Returns:
        (n,) z-values in units of the images that the negatives were learned from. A fold is skipped if too few images
        remain without it.
    """
    parts = []
    for fold in folds.unique():
        left = folds == fold
        if int((~left).sum()) < LEAST_IMAGES:
            continue
        negatives = learn(images[~left], labels[~left], positives)
        row = _row("n|p", _n(images[~left], negatives), images[~left] @ positives.mean(0))
        parts.append(_standardised(images[left], positives, negatives, row))
    return torch.cat(parts) if parts else images.new_empty(0)


def _standardised(images: Tensor, positives: Tensor, negatives: Tensor, row: Tensor) -> Tensor:
    """(n,) n|p of images (n, D) in the units of its row of terms; (0,) if the deviation of the row is 0."""
    slope, center, deviation = row.unbind()
    if not len(images) or bool(deviation <= 0):
        return images.new_empty(0)
    return (_n(images, negatives) - slope * (images @ positives.mean(0)) - center) / deviation


def _shifted(row: Tensor, by: Tensor) -> Tensor:
    """(3,) slope, mean and deviation of images whose mean and deviation are `by` (2,) in units of the row."""
    slope, mean, deviation = row.unbind()
    return torch.stack([slope, mean + by[0] * deviation, by[1] * deviation])


def _mixed(row: Tensor, unseen: Tensor, share: float) -> Tensor:
    """(3,) slope, mean and deviation if this share of the images comes from classes that the negatives have not seen."""
    slope, mean, deviation = row.unbind()
    shift, spread = unseen.unbind()
    variance = (1 - share) + share * spread.square() + share * (1 - share) * shift.square()
    return torch.stack([slope, mean + share * shift * deviation, deviation * variance.sqrt()])


def _view(positives: Tensor, mean: Tensor, covariance: Tensor, follow: Tensor, shifts: Tensor) -> ClassView:
    """The view of the classes of positives (K, D); a direction is zero if neither prompt nor images give one."""
    offsets = positives - positives.mean(0)
    squares = (offsets @ mean).square() + ((offsets @ covariance) * offsets).sum(1)
    return ClassView(mean, normalize(follow * offsets + shifts, dim=-1), squares.sum() / max(1, len(positives) - 1))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance (D, D); eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(covariance.double().cpu())
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root.to(covariance)


def _n(images: Tensor, negatives: Tensor) -> Tensor:
    """(N,) n of images (N, D), not standardised."""
    return -(images @ negatives.mean((0, 1)))


def _raw(images: Tensor, positives: Tensor, negatives: Tensor, view: ClassView) -> dict[str, Tensor]:
    """The statistics (N,) of images (N, D), not standardised; c and g need two classes."""
    cosines = images @ positives.T
    found = {"p": cosines.mean(1), "n": _n(images, negatives)}
    return found | class_statistics(images, cosines, view)


def class_statistics(images: Tensor, cosines: Tensor, view: ClassView) -> dict[str, Tensor]:
    """b, c and g of images.

    Args:
        images: (N, D).
        cosines: (N, K) with the positives.
        view: the classes as seen from the typical ID image (`IdStatistics.view`).

    Returns:
        (N,) each; only b if K is 1.
    """
    k = len(view.directions)
    best = cosines.amax(1)
    found = {"b": best}
    if k > 1:
        found["c"] = (normalize(images - view.mean, dim=1) @ view.directions.T).amax(1)
        mean = cosines.mean(1)
        # The best cosine is taken out of the mean and the sum of squares of all cosines.
        lead = (best - mean) * (k / (k - 1))
        squares = torch.linalg.vector_norm(cosines - mean[:, None], dim=1).square() - lead * (best - mean)
        found["g"] = lead / ((squares.clamp(min=0) + PRIOR_CLASSES * view.variance) / (k - 2 + PRIOR_CLASSES)).sqrt()
    return found


def _c_without_own(images: Tensor, labels: Tensor, view: ClassView, others: Tensor) -> Tensor:
    """(N,) c of training images (N, D); `others` (N, D) is M_i of each image's class without the image itself."""
    moved = normalize(images - view.mean, dim=1)
    cosines = moved @ view.directions.T
    own = (moved * normalize(others, dim=1)).sum(1)
    return cosines.scatter(1, labels[:, None], own[:, None]).amax(1)


def _standards(raw: Mapping[str, Tensor], slopes: Tensor | None = None) -> Tensor:
    """(5, 3) slope, mean and deviation of each term from raw statistics (N,); slopes are regressed unless given."""
    p = raw["p"]
    rows = []
    for row, name in enumerate(TERMS):
        x = raw.get(name.removesuffix("|p"))
        rows.append(p.new_zeros(3) if x is None else _row(name, x, p, None if slopes is None else slopes[row]))
    return torch.stack(rows)


def _row(name: str, x: Tensor, p: Tensor, slope: Tensor | None = None) -> Tensor:
    """(3,) slope, mean and deviation of a term from x (N,) and p (N,); the slope is regressed unless given."""
    kind, x, p = x.dtype, x.double(), p.double()
    if slope is None:
        slope = _slope(x, p) if name.endswith("|p") else p.new_zeros(())
    x = x - slope.double() * p
    deviation = x.std()
    kept = deviation if float(deviation) > _FLAT else deviation.new_zeros(())
    return torch.stack([slope.double(), x.mean(), kept]).to(kind)


def _slope(x: Tensor, p: Tensor) -> Tensor:
    """() slope of the regression of x (N,) on p (N,), shrunk towards 0 by its uncertainty.

    The shrinkage is James and Stein's positive part for one coefficient: 1 - (1 - r^2) / ((N - 2) r^2), r the correlation.
    """
    if float(x.std()) < _FLAT or float(p.std()) < _FLAT:
        return x.new_zeros(())
    r = torch.corrcoef(torch.stack([x, p]))[0, 1]
    kept = (1 - (1 - r.square()) / ((len(x) - 2) * r.square()).clamp(min=1e-12)).clamp(min=0)
    return kept * r * x.std() / p.std()


def log_tail(z: Tensor) -> Tensor:
    """Log of the probability that an ID image has a value below z, for a logistic distribution of unit deviation."""
    return torch.nn.functional.logsigmoid(math.pi / math.sqrt(3) * z)
