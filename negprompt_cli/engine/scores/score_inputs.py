"""The features that scores compare an image feature with, as one typed record."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from negprompt_cli.engine.scores.id_statistics import IdStatistics


@dataclass(frozen=True, eq=False)
class ScoreInputs:
    """Prompt features and, for scores that need them, training features; all are L2-normalised and on one device.

    K is the number of classes, p of negatives per class, W of words, T of training images, D of feature dimensions.

    Attributes:
        positives: (K, D) features of the positive prompts; the nearest one gives the predicted class.
        negatives: (K, p, D) features of the negative prompts, or None.
        zero_shot: (K, D) features of the zero-shot prompts of the same classes, or None.
        logit_scale: s, the exponentiated logit scale of the model, above 0.
        words: (W, D) features of negative words far from the class names, or None.
        words_by_images: (W, D) features of negative words far from ID images, or None.
        words_filtered: (W, D) features of negative words that are neither proper names nor subclasses, or None.
        csp_words: (W, D) features of nouns and of phrases of adjective and superclass, or None.
        pair_features: maps places (n, 2) of a class and a word of `words_filtered` to the L2-normalised features (n, D) of
            the text "<class name> and <word>", or None.
        train_features: (T, D) image features of the ID training set, or None.
        train_labels: (T,) integer labels of the training images, or None.
        id_statistics: statistics of ID images, for the default form of `negprompt`; None selects the paper's form.

    Raises:
        ValueError: shapes do not fit together, a feature is not L2-normalised, or a number is out of range.
    """

    positives: Tensor
    negatives: Tensor | None
    zero_shot: Tensor | None
    logit_scale: float
    words: Tensor | None = None
    words_by_images: Tensor | None = None
    words_filtered: Tensor | None = None
    csp_words: Tensor | None = None
    pair_features: Callable[[Tensor], Tensor] | None = None
    train_features: Tensor | None = None
    train_labels: Tensor | None = None
    id_statistics: IdStatistics | None = None

    def __post_init__(self) -> None:
        if self.positives.ndim != 2:
            raise ValueError(f"positives must be (K, D), got shape {tuple(self.positives.shape)}")
        k, d = self.positives.shape
        expected = {
            "positives": (k, d),
            "negatives": (k, None, d),
            "zero_shot": (k, d),
            "words": (None, d),
            "words_by_images": (None, d),
            "words_filtered": (None, d),
            "csp_words": (None, d),
            "train_features": (None, d),
        }
        for name, shape in expected.items():
            tensor: Tensor | None = getattr(self, name)
            if tensor is None:
                continue
            fits = tensor.ndim == len(shape) and all(
                want in (None, has) for want, has in zip(shape, tensor.shape, strict=True)
            )
            if not fits or tensor.numel() == 0:
                wanted = ", ".join("any" if size is None else str(size) for size in shape)
                raise ValueError(f"{name} must have shape ({wanted}) and not be empty, got {tuple(tensor.shape)}")
            check_normalised(tensor, name)
        if self.train_labels is not None and (
            self.train_features is None or self.train_labels.shape != self.train_features.shape[:1]
        ):
            raise ValueError("train_labels must have one entry per row of train_features")
        if self.id_statistics is not None and self.id_statistics.shifts.shape != (k, d):
            found = tuple(self.id_statistics.shifts.shape)
            raise ValueError(f"id_statistics must be of {k} classes and {d} dimensions, got {found}")
        if not self.logit_scale > 0:
            raise ValueError(f"logit_scale must be positive, got {self.logit_scale}")

    def rows(self, group: str) -> Tensor:
        """Return the features of a group (`positives`, `negatives`, ...) as (rows, D).

        Raises:
            ValueError: the bank does not have the group.
        """
        tensor: Tensor | None = getattr(self, group)
        if tensor is None:
            raise ValueError(f"the bank has no {group}")
        return tensor.flatten(0, -2)

    def to(self, device: torch.device, dtype: torch.dtype) -> "ScoreInputs":
        """Return a copy on another device with features in another floating point type; labels stay integers."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            if isinstance(value, IdStatistics):
                moved[name] = value.to(device, dtype)
            elif isinstance(value, Tensor):
                moved[name] = value.to(device) if name == "train_labels" else value.to(device, dtype)
        return replace(self, **moved)


def check_normalised(features: Tensor, name: str) -> None:
    """Check that all (..., D) features have length 1 up to 0.01, which allows for storage in half precision.

    Raises:
        ValueError: a feature has another length or is not finite.
    """
    lengths = torch.linalg.vector_norm(features, dim=-1)
    # This form of the comparison also fails for NaN.
    if not bool(((lengths - 1).abs() < 0.01).all()):
        raise ValueError(
            f"{name} must be finite and L2-normalised, got lengths from {lengths.min():.4g} to {lengths.max():.4g}"
        )
