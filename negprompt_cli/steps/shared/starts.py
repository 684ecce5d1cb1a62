"""The start of a training: the random streams of a seed, the initial context, and prompts of plain words."""

from collections.abc import Sequence

import torch
from torch import Tensor

from negprompt_cli.config import Config
from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.prompt_learners.contexts import positive_context, random_context

INIT_STREAM, ORDER_STREAM, NEGATIVE_STREAM = 1, 2, 3
"""Numbers of the random streams of one seed."""


def stream_seed(seed: int, number: int) -> int:
    """The seed of one random stream; the streams of one seed do not overlap."""
    return seed * 1_000_003 + number


def stream(seed: int, number: int) -> torch.Generator:
    """The generator of one random stream; no global state is used."""
    return torch.Generator().manual_seed(stream_seed(seed, number))


def start_context(clip: Clip, config: Config, classes: int) -> Tensor:
    """The initial positive context on the model's device: (1, M, D), or (1, K, M, D) when class-specific."""
    context = config.positive.context
    if context.init == "words":
        start = clip.word_context(context.words)
    else:
        generator = stream(config.seed, INIT_STREAM)
        start = random_context(context.length, clip.width, generator=generator).to(clip.device)
    return positive_context(start, classes=classes if context.class_specific else None)


def word_anchors(clip: Clip, config: Config, names: Sequence[str], *, budget: int) -> Tensor | None:
    """Features (K, F) of the configured words before K names, or None if the loss does not use them."""
    settings = config.positive
    if not settings.anchor and not settings.forced:
        return None
    return clip.encode_template(names, template=f"{settings.context.words} {{}}.", budget=budget)


def zero_shot_positive(clip: Clip, config: Config, classes: tuple[ClassLabel, ...]) -> Prompts:
    """Untrained positives: the configured words before the class names."""
    context = config.positive.context
    start = clip.word_context(context.words)
    return Prompts(
        kind="positive",
        positive=positive_context(start, classes=len(classes) if context.class_specific else None).cpu(),
        negative=None,
        classes=classes,
        model=clip.identity,
        config=config,
        learned_on=0,
    )
