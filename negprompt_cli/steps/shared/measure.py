"""Scores of an artifact on ID and OOD images, without metrics: the basis of evaluations and reports."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from negprompt_cli.data.encoding.features import EncodedSet
from negprompt_cli.data.results.artifacts import Prompts, check_model
from negprompt_cli.data.sets.imagesets import ImageSet, classes_without_data, default_ood, match_classes
from negprompt_cli.data.sets.spec import Spec, split_specs
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.scores import check_scores, constant_scores, find_score
from negprompt_cli.engine.scores.compute import ScoreTable, compute_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.engine.test_time import TEST_TIME_SCORES
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.local_scores import local_scores, require_local_features
from negprompt_cli.steps.shared.negative_words import ChosenWords
from negprompt_cli.steps.shared.possible_scores import ALL, possible_scores
from negprompt_cli.steps.shared.preflight import together
from negprompt_cli.steps.shared.score_inputs import make_score_inputs, score_options
from negprompt_cli.steps.shared.templates import template_list, template_texts
from negprompt_cli.steps.shared.test_time import StreamScores, stream_scores
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import some_of


@dataclass(frozen=True)
class Scored:
    """An image set with its scores, and with its zero-shot scores for other templates."""

    encoded: EncodedSet
    table: ScoreTable
    by_template: Mapping[str, ScoreTable] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Short name of the image set."""
        return self.encoded.images.name

    def without_features(self) -> "Scored":
        """The same without the features of the images, which take most of the memory."""
        return replace(self, encoded=replace(self.encoded, features=self.encoded.features[:0].clone()))


@dataclass(frozen=True)
class Measured:
    """Scores of an artifact on ID and OOD images, and the negative words that they use.

    `left_out`: if all scores were requested, those that cannot be computed, with the reasons. `test_time`: scores that learn
    from the test images, by OOD set, score and order of the images.
    """

    prompts: Prompts
    bank: ScoreInputs
    id_set: Scored
    ood_sets: tuple[Scored, ...]
    scores: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    words: tuple[ChosenWords, ...] = ()
    test_time: tuple[StreamScores, ...] = ()

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the predicted class of each ID image is its own."""
        hits: npt.NDArray[np.bool_] = self.id_set.table.predictions == self.id_set.encoded.labels.numpy()
        return hits


def ood_specs(bench: Workbench) -> list[Spec]:
    """The OOD sets to evaluate: those of the configuration, else those of the ID set's protocol.

    Raises:
        UsageError: the configuration names none, and the ID set has none.
    """
    asked = [spec for text in bench.config.evaluate.ood for spec in split_specs(text)]
    specs = asked or default_ood(bench.spec)
    if not specs:
        raise UsageError(
            f"There is no OOD set to compare {bench.spec.text} with.",
            remedy="ood",
        )
    return specs


def measure(bench: Workbench, artifact: ArtifactFile, *, keep_features: bool = True) -> Measured:
    """Score the ID and OOD images of the workbench's configuration with an artifact.

    Args:
        artifact: any prompt artifact.
        keep_features: whether the image sets keep their features, which take most of the memory, after scoring.

    Raises:
        UsageError, NegPromptError: as `run_evaluate`, except for its output.
    """
    config = bench.config
    names = tuple(dict.fromkeys(config.evaluate.scores))
    for name in names:
        if name in TEST_TIME_SCORES:
            raise UsageError(
                f"{name} learns from the test images, so it is not among the other scores.", remedy="test-time"
            )
        if name != ALL:
            find_score(name)
    for name in config.evaluate.test_time:
        find_score(name, TEST_TIME_SCORES)
    template_texts(config.evaluate.template)
    template_texts(config.evaluate.phrase_template or config.evaluate.template)
    templates = template_list(config.evaluate.templates) if config.evaluate.templates else []
    specs = ood_specs(bench)
    _ = bench.compute
    # Report everything that is missing in one message.
    together(
        lambda: artifact.require(config.data.spec),
        lambda: bench.id_images("eval"),
        *(partial(bench.image_set, spec, "ood") for spec in specs),
    )
    prompts = artifact.prompts
    left_out: dict[str, str] = {}
    if ALL in names:
        names, left_out = possible_scores(bench, prompts)
    if prompts.negative is None and "negprompt" in names:
        raise UsageError(
            f"{artifact.path} has only positive prompts, but the score negprompt needs negatives.",
            remedy="needs-negatives",
        )
    names = _varying(bench, names, len(prompts.classes))
    found = bench.id_images("eval")
    id_images = match_classes(found, prompts.classes)
    if absent := [c.name for c in classes_without_data(found, prompts.classes)]:
        message = (
            f"{len(absent)} of the {len(prompts.classes)} classes of the prompts have no images in {config.data.spec}: "
            f"{some_of(absent)}. The figures do not cover these classes."
        )
        facts = {"spec": config.data.spec, "classes": absent, "reason": "not in the data"}
        bench.decide(Decision("classes-left-out", message, facts, warning=True))
    ood_images = [bench.image_set(spec, "ood") for spec in specs]
    _refuse_same_names([id_images, *ood_images])
    _report_overlap(bench, id_images, ood_images)
    clip = bench.clip
    check_model(prompts, clip.identity, clip.width, artifact.path)
    local = [name for name in names if "local_features" in find_score(name).requires]
    if local:
        require_local_features(bench, local)
    words: list[ChosenWords] = []
    # Test-time scores use the same inputs as neglabel.
    needed = [*names, *(["neglabel"] if config.evaluate.test_time else [])]
    bank = make_score_inputs(bench, prompts, needed, on_words=words.append)
    check_scores(names, bank, has_local_features=True)
    by_template = _template_inputs(bench, prompts, names, templates)
    id_set = _score(bench, id_images, bank, names, by_template)
    if (id_set.encoded.labels < 0).any():
        raise UsageError(f"{config.data.spec}: ID images need classes, but these have none ({id_images.layout}).")
    ood_sets: list[Scored] = []
    streams: list[StreamScores] = []
    for images in ood_images:
        scored = _score(bench, images, bank, names, by_template)
        streams += stream_scores(bench, bank, id_set.encoded, scored.encoded)
        ood_sets.append(scored if keep_features else scored.without_features())
    id_set = id_set if keep_features else id_set.without_features()
    return Measured(prompts, bank, id_set, tuple(ood_sets), names, left_out, tuple(words), tuple(streams))


def _report_overlap(bench: Workbench, id_images: ImageSet, ood_images: Sequence[ImageSet]) -> None:
    """Warn about ID images that are also OOD images, by their paths; copies and links are not detected."""
    # Strings, because Path objects would take most of the time with a million images.
    own = {os.path.abspath(path) for path in id_images.paths}  # noqa: PTH100
    for images in ood_images:
        both = sum(os.path.abspath(path) in own for path in images.paths)  # noqa: PTH100
        if both:
            message = f"{both} of the {len(images)} OOD images of {images.name} are also ID images of this evaluation."
            facts = {"ood": images.name, "images": both, "of": len(images)}
            bench.decide(Decision("id-images-in-ood", message, facts, warning=True))


def _varying(bench: Workbench, names: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """The scores that differ between images with so few classes; reports the others.

    Raises:
        UsageError: all scores are the same for every image.
    """
    constant = constant_scores(names, classes)
    if not constant:
        return names
    message = (
        f"{', '.join(constant)}: with {classes} class these scores are the same for every image (a softmax over one class "
        "is always 1, and a single class has no background), so they cannot detect OOD images"
    )
    if len(constant) == len(names):
        raise UsageError(f"{message}. Use negprompt, max-logit or energy.", remedy="scores")
    bench.decide(
        Decision("few-classes", f"{message} and are left out.", {"classes": classes, "scores": constant}, True)
    )
    return tuple(name for name in names if name not in constant)


def _template_inputs(
    bench: Workbench, prompts: Prompts, names: Sequence[str], templates: Sequence[str]
) -> dict[str, ScoreInputs]:
    """The inputs of the scores of zero-shot prompts alone, with each template.

    Raises:
        UsageError: templates were given, but no score uses zero-shot prompts alone.
    """
    if templates and not _zero_shot(names):
        raise UsageError(
            f"None of the scores {', '.join(names)} uses zero-shot prompts, so other templates have no effect.",
            remedy="zero-shot-scores",
        )
    return {text: make_score_inputs(bench, prompts, _zero_shot(names), template=text) for text in templates}


def _zero_shot(names: Sequence[str]) -> list[str]:
    """The scores of zero-shot prompts alone. Words would have to be chosen again for each template."""
    return [name for name in names if set(find_score(name).requires) == {"zero_shot"}]


def _score(
    bench: Workbench,
    images: ImageSet,
    bank: ScoreInputs,
    names: Sequence[str],
    by_template: Mapping[str, ScoreInputs],
) -> Scored:
    how: dict[str, Any] = {
        "temperature": bench.config.evaluate.temperature,
        "options": score_options(bench.config.evaluate),
    }
    local = [name for name in names if "local_features" in find_score(name).requires]
    encoded = bench.encode(images)
    features = encoded.features.to(bench.clip.device)
    table = compute_scores(features, bank, [name for name in names if name not in local], **how)
    if local:
        merged = {**table.scores, **local_scores(bench, encoded.images, bank, local, **how)}
        table = replace(table, scores={name: merged[name] for name in names})
    tables = {text: compute_scores(features, inputs, _zero_shot(names), **how) for text, inputs in by_template.items()}
    return Scored(encoded, table, tables)


def _refuse_same_names(sets: Sequence[ImageSet]) -> None:
    seen: dict[str, str] = {}
    for images in sets[1:]:
        if images.name in seen:
            raise UsageError(
                f"Two OOD sets have the name {images.name}: {seen[images.name]} and {images.spec}. Rename one of them."
            )
        seen[images.name] = images.spec
