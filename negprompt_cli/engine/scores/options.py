"""The adjustable constants of the scores. Importing this module needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreOptions:
    """Constants of single scores. The temperature, which all softmax scores share, is not among them.

    Attributes:
        next_classes: N of `logit-gap`, the number of cosines that the highest is compared with; None uses a fifth of the
            classes.
        word_groups: number of groups of equal size that negative words are split into; 1 means no grouping.
        neighbours: k of `knn`, for few-shot training features; the paper uses 50 to 1000 for full training sets.
        shrinkage: in [0, 1], how far `mahalanobis` and `mahalanobis-relative` shrink the covariance towards a multiple of
            the identity; None uses the optimal value of Ledoit and Wolf (2004) for the training features.
        local_weight: weight of the local part of `gl-mcm`, at least 0.

    Raises:
        ValueError: a value is out of range.
    """

    next_classes: int | None = None
    word_groups: int = 1
    neighbours: int = 5
    shrinkage: float | None = None
    local_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.next_classes is not None and self.next_classes < 1:
            raise ValueError(f"next_classes must be at least 1, got {self.next_classes}")
        if self.word_groups < 1:
            raise ValueError(f"word_groups must be at least 1, got {self.word_groups}")
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must be in [0, 1], got {self.shrinkage}")
        if not self.local_weight >= 0:
            raise ValueError(f"local_weight must not be negative, got {self.local_weight}")
