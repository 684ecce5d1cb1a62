"""A detector from embeddings alone: for features from a vector database or another tool, without the model.

>>> from negprompt_cli import fit_embeddings
>>> import torch
>>> from torch.nn.functional import normalize
>>> draw = torch.Generator().manual_seed(0)
>>> classes = normalize(torch.randn(5, 64, generator=draw), dim=1)
>>> labels = torch.arange(80) % 5
>>> images = normalize(classes[labels] + 0.1 * torch.randn(80, 64, generator=draw), dim=1)
>>> detector = fit_embeddings(classes, images, labels)
>>> ood = normalize(torch.randn(9, 64, generator=draw), dim=1)
>>> bool(detector.score(images).min() > detector.score(ood).max())
True
>>> detector.calibrate(images, 0.95).threshold is not None
True

Negatives are N_ij = normalise(P_i + d_j). All classes share the offsets d_j, as they share contexts; see
`engine.embedding_negatives`. The losses and the default score are those of prompt artifacts. Nothing here needs a text
encoder or files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.config import Config, ask_config
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.embedding_negatives import negatives_of
from negprompt_cli.engine.metrics.calibration import choose_threshold
from negprompt_cli.engine.prompt_learners.training import Features
from negprompt_cli.engine.scores.compute import compute_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.embedding_learning import learn_embeddings
from negprompt_cli.steps.shared.self_check import self_check
from negprompt_cli.wording import some_of

Numbers = Tensor | npt.ArrayLike
"""A tensor, an array, a data frame, a column of arrays, or rows in a list; of any numeric type."""


@dataclass(frozen=True, eq=False)
class EmbeddingDetector:
    """Class embeddings, negatives and statistics of ID images. `threshold` is None before `calibrate`.

    `inputs` holds the positives (K, D), the negatives (K, p, D) and the ID statistics; `offsets` (p, D) are the d_j.
    `config` is the configuration of the training.
    """

    inputs: ScoreInputs
    offsets: Tensor
    threshold: float | None = None
    config: Config = field(default_factory=Config)

    @property
    def positives(self) -> Tensor:
        """(K, D) class embeddings, L2-normalised."""
        return self.inputs.positives

    @property
    def negatives(self) -> Tensor:
        """(K, p, D) negative embeddings, L2-normalised.

        Raises:
            ValueError: there are no negatives.
        """
        if self.inputs.negatives is None:
            raise ValueError("there are no negatives")
        return self.inputs.negatives

    def score(self, images: Numbers) -> Tensor:
        """ID scores (N,) float64 of image features (N, D), higher = more ID; features of any length are normalised."""
        found = compute_scores(self._unit(images), self.inputs, ["negprompt"]).scores["negprompt"]
        return torch.from_numpy(found)

    def predict(self, images: Numbers) -> Tensor:
        """Classes (N,) int64 of image features (N, D): those of the nearest positives. Negatives are not used."""
        return (self._unit(images) @ self.positives.T).argmax(1)

    def is_ood(self, images: Numbers) -> Tensor:
        """Whether the score of each of the image features (N, D) is below the threshold, (N,) bool.

        Raises:
            UsageError: there is no threshold yet.
        """
        if self.threshold is None:
            raise UsageError("The detector has no threshold: call calibrate with held-out ID images first.")
        return self.score(images) < self.threshold

    def calibrate(self, images: Numbers, acceptance: float = 0.95) -> Self:
        """The same detector with the highest threshold that accepts this share, in (0, 1), of held-out ID images (n, D).

        Raises:
            UsageError: there are too few images; the message names how many are needed.
        """
        chosen = choose_threshold(np.asarray(self.score(images)), acceptance=acceptance)
        return replace(self, threshold=chosen.value)

    def self_check(self, images: Numbers, labels: Numbers) -> Decision:
        """Compare the score with mcm and max-logit by a criterion of ID data alone (`engine.criterion`); takes seconds.

        Args:
            images: (N, D) features of the ID images that the detector was learned from.
            labels: (N,) their classes.

        Returns:
            A sentence in `message`, the figures of each split in `facts`; `warning` is true if the score is clearly below
            the better of the two.
        """
        features = self._unit(images)
        data = Features(features, _labels(labels, len(features), len(self.positives)))
        statistics = self.inputs.id_statistics
        return self_check(self.config, data, self.positives, statistics, scale=self.inputs.logit_scale)[1]

    def transfer(self, class_embeddings: Numbers) -> Self:
        """A detector for other class embeddings (K', D), with the same offsets and statistics and no threshold.

        Raises:
            UsageError: the embeddings are not (K', D).
        """
        positives = _embeddings(class_embeddings, self.positives.shape[1])
        negatives = negatives_of(positives, self.offsets)
        statistics = self.inputs.id_statistics
        if statistics is not None:
            statistics = statistics.follow((self.positives, self.negatives), (positives, negatives))
        inputs = replace(self.inputs, positives=positives, negatives=negatives, id_statistics=statistics)
        return replace(self, inputs=inputs, threshold=None)

    def _unit(self, images: Numbers) -> Tensor:
        return _embeddings(images, self.positives.shape[1])


def fit_embeddings(
    class_embeddings: Numbers,
    images: Numbers,
    labels: Numbers,
    *,
    logit_scale: float = 100.0,
    negatives: int = 2,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> EmbeddingDetector:
    """Learn negative embeddings from ID features, without a model.

    Args:
        class_embeddings: (K, D) text features of the classes, or any class prototypes; normalised here.
        images: (N, D) features of ID images of the same model; normalised here.
        labels: (N,) their classes, from 0 to K - 1.
        logit_scale: the exponentiated logit scale of the model, 100 for OpenAI's CLIPs.
        negatives: p, negatives per class.
        seed: random seed of the initial negatives.
        settings: configuration keys and values of the section negative, such as {"negative.loss.gamma": 0.5}.

    Raises:
        UsageError: the shapes or labels do not fit together, a number is not finite, there are too few images, or a setting
            is unknown, not used here, or an argument.
    """
    asked = ask_config(flags=settings or {})
    if others := sorted(set(asked.values) - {"negative"}):
        raise UsageError(f"Only settings of the section negative are used here, not {some_of(others)}.")
    if asked.given("negative.count") is not None:
        raise UsageError(
            "The number of negatives is the argument `negatives`. Remove negative.count from the settings."
        )
    if not (math.isfinite(logit_scale) and logit_scale > 0):
        raise UsageError(f"The logit scale must be a positive number, not {logit_scale:g}.")
    config = asked.over({"negative.count": negatives, "seed": seed}).config()
    positives = _embeddings(class_embeddings)
    features = _embeddings(images, positives.shape[1])
    data = Features(features, _labels(labels, len(features), len(positives)))
    inputs, offsets = learn_embeddings(config, data, positives, scale=logit_scale)
    return EmbeddingDetector(inputs, offsets, config=config)


def _labels(values: Numbers, images: int, classes: int) -> Tensor:
    """(N,) int64 labels of `images` images.

    Raises:
        UsageError: they are not whole numbers from 0 to `classes` - 1, one for each image.
    """
    given = _numbers(values, np.float64)
    if given is not None and given.shape == (images,):
        labels = given.long()
        if bool(((labels == given) & (labels >= 0) & (labels < classes)).all()):
            return labels
    raise UsageError(f"Labels must be {images} whole numbers from 0 to {classes - 1}, one for each image.")


def _embeddings(values: Numbers, dimension: int | None = None) -> Tensor:
    """(n, D) float32 embeddings of length 1.

    Raises:
        UsageError: the shape is wrong, a row is all zeros, or a number is not finite.
    """
    rows = _numbers(values, np.float32)
    if rows is None:
        raise UsageError("Embeddings must be a tensor, an array, a data frame, or rows of numbers of the same length.")
    rows = rows.float()
    if rows.ndim != 2 or not len(rows) or (dimension is not None and rows.shape[1] != dimension):
        wanted = f"(n, {dimension})" if dimension is not None else "(n, D)"
        raise UsageError(f"Embeddings must be of shape {wanted} and not empty, not {tuple(rows.shape)}.")
    lengths = rows.norm(dim=1)
    if len(bad := ((lengths > 0) & lengths.isfinite()).logical_not().nonzero().flatten()):
        raise UsageError(
            "Embeddings must be finite, and none may be all zeros. "
            f"Rows that are not, counted from 0: {some_of(bad.tolist())}."
        )
    return normalize(rows, dim=1, eps=0)


def _numbers(values: Numbers, kind: type[np.floating]) -> Tensor | None:
    """Numbers in whatever holds them: a tensor, or what numpy reads, such as a data frame or a column of arrays.

    None is returned for texts, missing values and rows of different lengths. Tensors keep their type and device.
    """
    try:
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
            values = torch.stack(list(values))
        if isinstance(values, Tensor):
            return values.detach()  # Without a graph: features may come from a model that is being trained.
        array = np.asarray(values)
        if array.dtype == object and array.ndim == 1 and len(array) and np.ndim(array[0]):
            array = np.stack([np.asarray(row, kind) for row in array])
        with np.errstate(over="ignore"):
            return torch.from_numpy(array.astype(kind))
    except (TypeError, ValueError, RuntimeError):
        return None
