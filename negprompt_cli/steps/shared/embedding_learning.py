"""Negatives learned as embeddings with the settings of a configuration, and the ID statistics of the default score."""

import torch
from torch import Tensor

from negprompt_cli.config import Config
from negprompt_cli.engine.embedding_negatives import learn_offsets, negatives_of
from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.prompt_learners.training import Features
from negprompt_cli.engine.scores.id_statistics import IdStatistics
from negprompt_cli.engine.scores.score_inputs import ScoreInputs


def score_statistics(
    config: Config,
    data: Features,
    positives: Tensor,
    negatives: Tensor,
    *,
    scale: float,
    added: Tensor | None = None,
) -> IdStatistics | None:
    """The ID statistics of the default score, computed in closed form on the CPU; None for the paper's score.

    Args:
        config: its sections seed and negative are used.
        data: the ID training features.
        positives: (K, F) features of the positive prompts.
        negatives: (K, p, F) features of the negative prompts.
        scale: CLIP's logit scale.
        added: (K,) bool, whether the negatives were learned without a class; None if they were learned with all.

    Raises:
        UsageError: there are too few images.
    """
    if config.negative.score == "paper":
        return None

    def learn(images: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
        return negatives_of(classes, embedding_offsets(config, Features(images, labels), classes, scale=scale))

    found = IdStatistics.measure(data.images, data.labels, positives, negatives, learn, seed=config.seed, added=added)
    return found.to(torch.device("cpu"), torch.float32)


def embedding_offsets(config: Config, data: Features, positives: Tensor, *, scale: float) -> Tensor:
    """The offsets (p, F) of negatives learned as embeddings with stage 2's loss; arguments as in `score_statistics`."""
    settings = config.negative
    return learn_offsets(
        data.images,
        data.labels,
        positives,
        scale=scale,
        loss=NegativeLoss(**settings.loss.model_dump()),
        negatives=settings.count,
        seed=config.seed,
    )


def learn_embeddings(config: Config, data: Features, positives: Tensor, *, scale: float) -> tuple[ScoreInputs, Tensor]:
    """The inputs of scores, learned without a text tower, and the offsets (p, F) of the negatives.

    Arguments and errors are those of `score_statistics`.
    """
    offsets = embedding_offsets(config, data, positives, scale=scale)
    negatives = negatives_of(positives, offsets)
    statistics = score_statistics(config, data, positives, negatives, scale=scale)
    if statistics is not None:
        statistics = statistics.to(positives.device, positives.dtype)
    return ScoreInputs(positives, negatives, None, scale, id_statistics=statistics), offsets
