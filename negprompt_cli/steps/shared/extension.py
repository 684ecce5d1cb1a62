"""Extension: an artifact's contexts for its own classes and those of new images, with a threshold for all classes.

Nothing is trained. The ID statistics of the default score are those of the old training images and of half of the new
images. The threshold is chosen on held-out images of every class, with the score and the acceptance of the source.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.sets.spec import Spec
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts
from negprompt_cli.engine.prompt_learners.training import Features
from negprompt_cli.engine.scores.id_statistics import IdStatistics
from negprompt_cli.steps.shared.added_classes import AddedClasses, find_added_classes
from negprompt_cli.steps.shared.embedding_learning import score_statistics
from negprompt_cli.steps.shared.learning import carry_over
from negprompt_cli.steps.shared.score_inputs import make_score_inputs
from negprompt_cli.steps.shared.thresholds import CalibrateOptions, calibrate_on, enough_for_threshold
from negprompt_cli.steps.shared.workbench import Workbench


def extend_prompts(bench: Workbench, source: Prompts, images: Sequence[Spec]) -> tuple[Prompts, AddedClasses]:
    """The extended prompts, not yet on disk, and their images.

    With too few held-out images there is no threshold, and a message says how many are needed.

    Args:
        bench: the configuration; its data are the artifact's training data.
        source: prompts of the loaded model, with negatives and shared contexts.
        images: SPECs of images of the new classes, and optionally of old ones.

    Raises:
        UsageError: images are missing, there is no new class, a class has no held-out images, or a name is too long for the
            text tower.
    """
    found = find_added_classes(bench, source, images)
    names = [c.name for c in found.classes]
    tokenize_prompts(names, bench.clip.tokenizer, bench.clip.plan, context=source.positive.shape[-2])
    prompts = carry_over(bench, source, found.classes)
    added = tuple(dict.fromkeys((*source.config.data.added, *(spec.text for spec in images))))
    data = source.config.data.model_copy(update={"added": added})
    prompts = replace(
        prompts,
        id_statistics=_statistics(bench, prompts, found),
        config=source.config.model_copy(update={"data": data}),
    )
    known = source.calibration
    options = CalibrateOptions()
    if known is not None:
        options = CalibrateOptions(known.acceptance, known.confidence, known.score, bool(known.by_class))
        evaluate = bench.config.evaluate.model_copy(update=known.settings)
        bench = bench.with_config(bench.config.model_copy(update={"evaluate": evaluate}))
    if enough_for_threshold(bench, len(found.held_out), options):
        made = calibrate_on(bench, prompts, found.held_out, options, data=found.held_out.spec)
        prompts = replace(prompts, calibration=made)
    return prompts, found


def _statistics(bench: Workbench, prompts: Prompts, found: AddedClasses) -> IdStatistics | None:
    """ID statistics of old and new training images, or those of `prompts` if the old images are missing."""
    if prompts.id_statistics is None or found.training is None:
        return prompts.id_statistics
    encoded = bench.encode(found.training)
    bank = make_score_inputs(bench, prompts, ["negprompt"])
    assert bank.negatives is not None
    device = bench.clip.device
    return score_statistics(
        prompts.config,
        Features(encoded.features.to(device), encoded.labels.to(device)),
        bank.positives,
        bank.negatives,
        scale=bench.clip.logit_scale,
        added=torch.from_numpy(found.added).to(device),
    )
