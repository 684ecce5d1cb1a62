"""Where a training starts: the random streams of a seed, initial contexts, and prompts of plain words."""

import torch

from negprompt_cli.config import ContextConfig
from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.sets.imagesets import ClassLabel
from negprompt_cli.engine.prompt_learners.contexts import positive_context, random_context
from negprompt_cli.steps.shared.workbench import Workbench

INIT_STREAM, ORDER_STREAM, NEGATIVE_STREAM = 1, 2, 3
"""Numbers that keep the random streams of one seed apart."""


def stream(seed: int, number: int) -> torch.Generator:
    """A generator for one purpose: streams of one seed do not overlap, and no global state is touched."""
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def start_context(bench: Workbench, config: ContextConfig, classes: int) -> torch.Tensor:
    """The initial positive context: (1, M, D), or (1, K, M, D) when class-specific."""
    clip = bench.clip
    if config.init == "words":
        start = clip.word_context(config.words)
    else:
        generator = stream(bench.config.seed, INIT_STREAM)
        start = random_context(config.length, clip.plan.width, generator=generator).to(clip.device)
    return positive_context(start, classes=classes if config.class_specific else None)


def word_anchors(bench: Workbench, names: list[str]) -> torch.Tensor | None:
    """Features (K, F) of the configured words in front of K names, or None where nothing is anchored to them."""
    settings = bench.config.positive
    if not settings.anchor:
        return None
    return bench.clip.encode_template(names, template=f"{settings.context.words} {{}}.", budget=bench.budget)


def zero_shot_positive(bench: Workbench, classes: tuple[ClassLabel, ...]) -> Prompts:
    """Positives that were not trained: the configured words in front of the class names."""
    context = bench.config.positive.context
    start = bench.clip.word_context(context.words)
    return Prompts(
        kind="positive",
        positive=positive_context(start, classes=len(classes) if context.class_specific else None),
        negative=None,
        classes=classes,
        model=bench.clip.identity,
        config=bench.config,
        learned_on=0,
    )
