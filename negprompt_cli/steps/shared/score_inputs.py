"""The inputs of scores: an artifact's encoded prompts, and training images or words if a score needs them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from negprompt_cli.config import EvaluateConfig
from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.engine.scores import ScoreOptions, find_score
from negprompt_cli.engine.scores.neglabel_pairs import STRONGEST
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.negative_words import CHOICES, ChosenWords, choose_words
from negprompt_cli.steps.shared.training_sample import training_features
from negprompt_cli.steps.shared.word_pairs import WordPairs
from negprompt_cli.steps.shared.workbench import Workbench


def make_score_inputs(
    bench: Workbench,
    prompts: Prompts,
    scores: Sequence[str],
    *,
    template: str | None = None,
    on_words: Callable[[ChosenWords], None] | None = None,
) -> ScoreInputs:
    """Encode an artifact's prompts, and the other inputs that the scores need.

    Args:
        prompts: an artifact of the model.
        scores: names of the scores.
        template: the zero-shot template; None for the configured one.
        on_words: called with each choice of negative words.

    Raises:
        UsageError: a score needs words or training images that are missing.
    """
    clip = bench.clip
    needs = {need for name in scores for need in find_score(name).requires}
    positives = _encoded(bench, prompts.names, prompts.positive)[0]
    negatives = None if prompts.negative is None else _encoded(bench, prompts.names, prompts.negative).transpose(0, 1)
    bank = ScoreInputs(positives, negatives, None, clip.logit_scale)
    if (statistics := prompts.id_statistics) is not None:
        if statistics.shifts.shape != positives.shape:
            raise UsageError(
                f"The artifact is damaged: its ID statistics have {' x '.join(map(str, statistics.shifts.shape))} classes "
                f"and dimensions, but the prompts' features have {' x '.join(map(str, positives.shape))}. Train again."
            )
        bank = replace(bank, id_statistics=statistics.to(clip.device, torch.float32))
    if "zero_shot" in needs:
        template = template or bench.config.evaluate.template
        bank = replace(bank, zero_shot=bench.encode_texts(prompts.names, template))
    asking = [name for name in scores if {"train_features", "words_by_images"} & set(find_score(name).requires)]
    images = training_features(bench, prompts, asking) if asking else None
    if images and "train_features" in needs:
        bank = replace(bank, train_features=images[0], train_labels=images[1])
    wanted = [choice for choice in CHOICES if choice in needs]
    if wanted and bank.zero_shot is not None:
        for chosen in choose_words(bench, prompts, bank.zero_shot, wanted, images=images):
            features: dict[str, Any] = {chosen.choice: chosen.features}
            bank = replace(bank, **features)
            if on_words:
                on_words(chosen)
            if chosen.choice == "words_filtered" and "pair_features" in needs:
                message = (
                    f"Pairs of class and word: up to {STRONGEST**2} texts are encoded for each image, each text once."
                )
                bench.progress.say(message)
                pairs = WordPairs(bench, prompts.names, chosen.words, template or bench.config.evaluate.template)
                bank = replace(bank, pair_features=pairs)
    return bank


def _encoded(bench: Workbench, names: Sequence[str], contexts: Tensor) -> Tensor:
    """Features (C, K, F) of K names behind learned contexts (C, M, D) or (C, K, M, D)."""

    def make() -> Tensor:
        clip = bench.clip
        encoder = clip.prompt_encoder(
            names, context=contexts.shape[-2], budget=bench.budget, notice=bench.progress.warn
        )
        return encoder(contexts.to(clip.device)).flatten(0, 1)

    values = contexts.detach().cpu().float().contiguous().numpy().tobytes()
    parts = [b"prompts", str(tuple(contexts.shape)).encode(), values, *(name.encode() for name in names)]
    count = len(contexts) * len(names)
    features: Tensor = bench.text_features(parts, count, make).unflatten(0, (len(contexts), len(names)))
    return features


def score_options(config: EvaluateConfig) -> ScoreOptions:
    """The engine's score options from a configuration."""
    return ScoreOptions(
        next_classes=config.next_classes,
        word_groups=config.word_groups,
        neighbours=config.neighbours,
        shrinkage=config.shrinkage,
        local_weight=config.local_weight,
    )
