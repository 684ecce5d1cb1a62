"""The start of a training: the random streams of a seed, the initial context, and prompts of plain words."""

from collections.abc import Sequence

import torch
from torch import Tensor

from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.engine.prompt_learners.contexts import positive_context, random_context
from negprompt_cli.steps.shared.workbench import Workbench

INIT_STREAM, ORDER_STREAM, NEGATIVE_STREAM = 1, 2, 3
"""Numbers of the random streams of one seed."""


def stream_seed(seed: int, number: int) -> int:
    """The seed of one random stream; the streams of one seed do not overlap."""
    return seed * 1_000_003 + number


def stream(seed: int, number: int) -> torch.Generator:
    """The generator of one random stream; no global state is used."""
    return torch.Generator().manual_seed(stream_seed(seed, number))


def start_context(bench: Workbench, classes: int) -> Tensor:
    """The initial positive context on the model's device: (1, M, D), or (1, K, M, D) when class-specific."""
    context = bench.config.positive.context
    if context.init == "words":
        return _word_context(bench, classes)
    generator = stream(bench.config.seed, INIT_STREAM)
    start = random_context(context.length, bench.clip.width, generator=generator).to(bench.clip.device)
    return positive_context(start, classes=classes if context.class_specific else None)


def _word_context(bench: Workbench, classes: int) -> Tensor:
    context = bench.config.positive.context
    start = bench.clip.word_context(context.words)
    return positive_context(start, classes=classes if context.class_specific else None)


def word_anchors(bench: Workbench, names: Sequence[str]) -> Tensor | None:
    """Features (K, F) of the configured words before K names, or None if the loss does not use them."""
    settings = bench.config.positive
    if not settings.anchor and not settings.forced:
        return None
    return bench.clip.encode_template(names, template=f"{settings.context.words} {{}}.", budget=bench.budget)


def zero_shot_positive(bench: Workbench, classes: tuple[ClassLabel, ...]) -> Prompts:
    """Untrained positives: the configured words before the class names."""
    return Prompts(
        kind="positive",
        positive=_word_context(bench, len(classes)).cpu(),
        negative=None,
        classes=classes,
        model=bench.clip.identity,
        config=bench.config,
        learned_on=0,
    )
