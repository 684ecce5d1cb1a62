"""The scores that can be computed here, for the name `all`, and why the others cannot be computed."""

from collections.abc import Callable, Mapping
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
    reasons: dict[str, str | None] = {need: why(bench, prompts) for need, why in _WHY_NOT.items()}
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


def _no_negatives(bench: Workbench, prompts: Prompts) -> str | None:
    return "the artifact has only positive prompts" if prompts.negative is None else None


def _no_words(choice: str, bench: Workbench, prompts: Prompts) -> str | None:
    reason = _refusal(lambda: check_choice(bench.config.evaluate, prompts, choice))
    return _no_training_images(bench, prompts) if reason is None and choice == "words_by_images" else reason


def _no_training_images(bench: Workbench, prompts: Prompts) -> str | None:
    asking = [name for name in score_names() if "train_features" in find_score(name).requires]
    return _refusal(lambda: training_images(bench, prompts, asking))


def _no_local_features(bench: Workbench, prompts: Prompts) -> str | None:
    reason = why_no_local_features(bench.clip.model)
    return f"{bench.clip.identity.name} has no local (patch) features, because {reason}" if reason else None


def _refusal(look: Callable[[], object]) -> str | None:
    """The first line of the error that `look` raises, or None."""
    try:
        look()
    except UsageError as error:
        return str(error)
    return None


_WHY_NOT: Mapping[str, Callable[[Workbench, Prompts], str | None]] = {
    "negatives": _no_negatives,
    **{choice: partial(_no_words, choice) for choice in CHOICES},
    "train_features": _no_training_images,
    "local_features": _no_local_features,
    "pair_features": lambda bench, prompts: (
        "it encodes up to 25 texts for each image, which takes long, so it is computed only where it is named"
    ),
}
"""What some scores need, and the functions that return why it is missing here."""
