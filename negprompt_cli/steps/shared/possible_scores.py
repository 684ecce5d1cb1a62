"""The scores that can be computed here, for the name `all`, and why the others cannot be computed."""

from collections.abc import Callable
from functools import partial

from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.local_features import why_no_local_features
from negprompt_cli.engine.scores import find_score, score_names
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.negative_words import CHOICES, check_choice
from negprompt_cli.steps.shared.training_sample import training_images
from negprompt_cli.steps.shared.workbench import Workbench

ALL = "all"
"""The name that selects every score that can be computed."""


def possible_scores(bench: Workbench, prompts: Prompts) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of the scores that can be computed, and the reasons for the others by name; reports these.

    Args:
        prompts: the artifact; neither prompts nor images are encoded.
    """
    reasons = _reasons(bench, prompts)
    classes = len(prompts.classes)
    left_out: dict[str, str] = {}
    for name in score_names():
        record = find_score(name)
        why = [reason for need in record.requires if (reason := reasons.get(need)) is not None]
        if record.least_classes > classes:
            why.append(f"with {classes} class it is the same for every image")
        if why:
            left_out[name] = why[0]
    if left_out:
        by_reason: dict[str, list[str]] = {}
        for name, reason in left_out.items():
            by_reason.setdefault(reason, []).append(name)
        lines = [f"  {', '.join(names)}: {reason.rstrip('.')}." for reason, names in by_reason.items()]
        message = "\n".join([f"{len(left_out)} of {len(score_names())} scores are left out:", *lines])
        bench.decide(Decision("scores-left-out", message, left_out))
    return tuple(name for name in score_names() if name not in left_out), left_out


def _reasons(bench: Workbench, prompts: Prompts) -> dict[str, str | None]:
    """Why each thing that some scores need is missing here; None if it is not."""
    asking = [name for name in score_names() if "train_features" in find_score(name).requires]
    no_images = _refusal(partial(training_images, bench, prompts, asking))
    no_words = {choice: _refusal(partial(check_choice, bench.config.evaluate, prompts, choice)) for choice in CHOICES}
    local = why_no_local_features(bench.clip.model)
    return {
        "negatives": "the artifact has only positive prompts" if prompts.negative is None else None,
        **no_words,
        "words_by_images": no_words["words_by_images"] or no_images,
        "train_features": no_images,
        "local_features": local and f"{bench.clip.identity.name} has no local (patch) features, because {local}",
        "pair_features": (
            "it encodes up to 25 texts for each image, which takes long, so it is computed only where it is named"
        ),
    }


def _refusal(look: Callable[[], object]) -> str | None:
    """The message of the error that `look` raises, or None."""
    try:
        look()
    except UsageError as error:
        return str(error)
    return None
