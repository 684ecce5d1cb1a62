"""Evaluation: ID images against OOD sets, every score, every metric, full provenance.

The document written is the contract's "negprompt/evaluation/1". Fractions, not per cent; both FPR95 conventions are given
under names that say which class is positive. Leaves out: choosing anything; a result is only measured here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from negprompt_cli.config import Config, EvaluateConfig
from negprompt_cli.data.encoding.features import EncodedSet
from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.results.artifacts import Prompts, check_model, load_prompts
from negprompt_cli.data.results.provenance import device_name, versions
from negprompt_cli.data.sets.imagesets import ImageSet, default_ood, files_digest, match_classes, split_specs
from negprompt_cli.engine.metrics.bootstrap import bootstrap_ci
from negprompt_cli.engine.metrics.detection import (
    OodMetrics,
    acceptance_curve,
    evaluate_scores,
    fpr_at_recall_id_positive,
    fpr_at_recall_ood_positive,
)
from negprompt_cli.engine.metrics.trapezoid import trapezoid_aupr
from negprompt_cli.engine.scores import ScoreOptions, check_scores, find_score
from negprompt_cli.engine.scores.compute import ScoreTable, compute_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Progress
from negprompt_cli.steps.shared.local_scores import local_scores, require_local_features
from negprompt_cli.steps.shared.negative_words import encode_negative_words
from negprompt_cli.steps.shared.outputs import refuse_existing, write_config
from negprompt_cli.steps.shared.preflight import require_prompts, together
from negprompt_cli.steps.shared.templates import encode_zero_shot, template_texts
from negprompt_cli.steps.shared.training_sample import training_features
from negprompt_cli.steps.shared.workbench import Workbench

SCHEMA = "negprompt/evaluation/1"
METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95_id_positive", "fpr95_ood_positive", "oscr")
"""Metrics of every row, which the contract promises."""
MORE_METRICS = ("detection_error", "autc", "aupr_in_trapezoid", "aupr_out_trapezoid")
"""Metrics beyond the contract; the trapezoid AUPR is that of pytorch-ood and OpenOOD, aupr_in and aupr_out are step sums."""
AVERAGE = "average"
"""The name of the row that holds the means over the OOD sets."""


@dataclass(frozen=True)
class Scored:
    """An image set with its scores."""

    encoded: EncodedSet
    table: ScoreTable

    @property
    def name(self) -> str:
        """Short name of the set."""
        return self.encoded.images.name


@dataclass(frozen=True)
class Measured:
    """Scores of an artifact on ID and OOD images, before any metric is taken."""

    prompts: Prompts
    bank: ScoreInputs
    id_set: Scored
    ood_sets: tuple[Scored, ...]
    scores: tuple[str, ...]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the predicted class of each ID image is its own."""
        hits: npt.NDArray[np.bool_] = self.id_set.table.predictions == self.id_set.encoded.labels.numpy()
        return hits


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation made: the document, and the scores behind it."""

    path: Path
    document: dict[str, Any]
    measured: Measured

    @property
    def id_set(self) -> Scored:
        """The ID images with their scores."""
        return self.measured.id_set

    @property
    def ood_sets(self) -> tuple[Scored, ...]:
        """The OOD images with their scores."""
        return self.measured.ood_sets


def ood_specs(config: Config) -> list[str]:
    """The OOD sets to evaluate: those asked for, else the protocol's own.

    Raises:
        UsageError: none was asked for and the ID set brings none.
    """
    specs = [spec for text in config.evaluate.ood for spec in split_specs(text)]
    if specs:
        return specs
    own = default_ood(config.data.spec)
    if own is None:
        raise UsageError(
            f"No OOD set to compare {config.data.spec} with. Pass --ood, for example "
            "--ood inaturalist,sun,places,dtd or --ood path/to/images."
        )
    return split_specs(own)


def run_evaluate(
    config: Config,
    out: Path,
    *,
    prompts_path: Path,
    overwrite: bool,
    progress: Progress,
    bench: Workbench | None = None,
) -> Evaluation:
    """Score ID and OOD images and write the evaluation document to `out`.

    Args:
        config: the resolved configuration.
        out: the JSON file to write.
        prompts_path: any prompt artifact.
        overwrite: whether `out` may be replaced.
        progress: told how it goes.
        bench: a workbench to share model and features with other steps.

    Raises:
        UsageError: `out` exists, the artifact is missing or does not fit, data are not there, classes do not match,
            an unknown score, or one that needs what is not there.
        NegPromptError: an image is broken, the model cannot be had, the disk is full.
    """
    refuse_existing(out, overwrite=overwrite)
    bench = bench or Workbench(config, progress)
    measured = measure(bench, prompts_path, keep_features=False)
    document = evaluation_document(bench, measured, prompts_path)
    atomic_write_text(out, json.dumps(document, indent=1) + "\n")
    write_config(config, out)
    return Evaluation(out, document, measured)


def measure(bench: Workbench, prompts_path: Path, *, keep_features: bool = True) -> Measured:
    """Score the ID and OOD images of the workbench's configuration with an artifact.

    Args:
        bench: model and configuration.
        prompts_path: any prompt artifact.
        keep_features: whether the image sets keep their features, which take most of the memory, once they are scored.

    Raises:
        UsageError, NegPromptError: as `run_evaluate`, apart from what concerns its output.
    """
    config = bench.config
    names = tuple(dict.fromkeys(config.evaluate.scores))
    for name in names:
        find_score(name)
    template_texts(config.evaluate.template)
    specs = ood_specs(config)
    _ = bench.compute
    # Everything that is missing is said at once, not one run at a time.
    together(
        lambda: require_prompts(prompts_path, config.data.spec),
        lambda: bench.image_set(config.data.spec, "eval"),
        *(partial(bench.image_set, spec, "ood") for spec in specs),
    )
    prompts = load_prompts(prompts_path)
    if prompts.negative is None and "negprompt" in names:
        raise UsageError(
            f"{prompts_path} holds positive prompts only, and the score negprompt needs negatives. Run "
            "`negprompt train-negative` first, or pass --scores mcm,max-logit."
        )
    id_images = match_classes(bench.image_set(config.data.spec, "eval"), prompts.classes)
    ood_images = [bench.image_set(spec, "ood") for spec in specs]
    _refuse_same_names([id_images, *ood_images])
    clip = bench.clip
    check_model(prompts, clip.identity, clip.plan.width, prompts_path)
    local = [name for name in names if "local_features" in find_score(name).requires]
    if local:
        require_local_features(bench, local)
    bank = make_bank(bench, prompts, names)
    check_scores(names, bank, has_local_features=True)
    id_set = _score(bench, id_images, bank, names, keep_features=keep_features)
    if (id_set.encoded.labels < 0).any():
        raise UsageError(f"{config.data.spec}: ID images without a class cannot be evaluated ({id_images.layout}).")
    ood_sets = tuple(_score(bench, images, bank, names, keep_features=keep_features) for images in ood_images)
    return Measured(prompts, bank, id_set, ood_sets, names)


def make_bank(bench: Workbench, prompts: Prompts, scores: Sequence[str]) -> ScoreInputs:
    """Encode an artifact's prompts, and whatever else the scores asked for compare with.

    Raises:
        UsageError: a score needs words or training images that are not there.
    """
    clip = bench.clip
    needs = {need for name in scores for need in find_score(name).requires}
    encoder = clip.prompt_encoder(
        prompts.names, context=prompts.positive.shape[-2], budget=bench.budget, notice=bench.progress.warn
    )
    with torch.no_grad():
        positives = encoder(prompts.positive.to(clip.device))[0]
        negatives = None if prompts.negative is None else encoder(prompts.negative.to(clip.device)).transpose(0, 1)
    bank = ScoreInputs(positives, negatives, None, clip.logit_scale)
    floors = prompts.config.negative.floors
    if prompts.image_mean is not None and floors is not None:
        if prompts.image_mean.shape != positives.shape[1:]:
            raise UsageError(
                f"The prompts' image mean has {prompts.image_mean.shape[0]} dimensions, the model's features "
                f"{positives.shape[1]}: the artifact is damaged. Train again."
            )
        bank = replace(bank, image_mean=prompts.image_mean.to(clip.device), exponent=floors.exponent, base=floors.base)
    if "zero_shot" in needs:
        template = bench.config.evaluate.template
        bank = replace(bank, zero_shot=encode_zero_shot(clip, prompts.names, template, budget=bench.budget))
    if "words" in needs and bank.zero_shot is not None:
        bank = replace(bank, words=encode_negative_words(bench, prompts.names, bank.zero_shot))
    if "train_features" in needs:
        features, labels = training_features(bench, prompts)
        bank = replace(bank, train_features=features, train_labels=labels)
    return bank


def score_options(config: EvaluateConfig) -> ScoreOptions:
    """The engine's options of a configuration."""
    return ScoreOptions(
        word_groups=config.word_groups,
        neighbours=config.neighbours,
        shrinkage=config.shrinkage,
        local_weight=config.local_weight,
    )


def _score(
    bench: Workbench, images: ImageSet, bank: ScoreInputs, names: Sequence[str], *, keep_features: bool
) -> Scored:
    settings = bench.config.evaluate
    local = [name for name in names if "local_features" in find_score(name).requires]
    encoded = bench.encode(images)
    table = compute_scores(
        encoded.features.to(bench.clip.device),
        bank,
        [name for name in names if name not in local],
        temperature=settings.temperature,
        options=score_options(settings),
    )
    if local:
        more = local_scores(
            bench,
            encoded.images,
            bank,
            local,
            temperature=settings.temperature,
            options=score_options(settings),
        )
        merged = {**table.scores, **more}
        table = replace(table, scores={name: merged[name] for name in names})
    return Scored(encoded if keep_features else replace(encoded, features=encoded.features[:0].clone()), table)


def _refuse_same_names(sets: Sequence[ImageSet]) -> None:
    seen: dict[str, str] = {}
    for images in sets[1:]:
        if images.name in seen:
            raise UsageError(f"Two OOD sets are called {images.name}: {seen[images.name]} and {images.spec}.")
        seen[images.name] = images.spec


def evaluation_document(bench: Workbench, measured: Measured, path: Path) -> dict[str, Any]:
    """Take every metric and put it down with its provenance: the contract's evaluation document.

    Raises:
        UsageError: the scores of a set are not finite.
    """
    config, prompts = bench.config, measured.prompts
    rows: list[dict[str, Any]] = []
    for name in measured.scores:
        own = [_row(config, measured, name, ood) for ood in measured.ood_sets]
        rows += [*own, _average(own)]
    return {
        "schema": SCHEMA,
        "limited": config.data.limit is not None or prompts.config.data.limit is not None,
        "model": {
            "name": prompts.model.name,
            "pretrained": prompts.model.pretrained,
            "weights_sha256": prompts.model.weights_sha256,
        },
        "prompts": {
            "path": str(path),
            "sha256": prompts.sha256,
            "kind": prompts.kind,
            "loss": None if prompts.negative is None else prompts.config.negative.loss.name,
            "negatives": prompts.negatives_per_class,
            "floor_exponent": prompts.floor_exponent,
            "seed": prompts.config.seed,
            "shots": prompts.config.data.shots,
            "context": prompts.positive.shape[-2],
            "learned_on_classes": prompts.learned_on,
        },
        "id": {
            "name": measured.id_set.name,
            "images": len(measured.id_set.encoded),
            "classes": len(prompts.classes),
            "accuracy": float(measured.correct.mean()),
            "files_sha256": _digest(measured.id_set),
            "skipped": list(measured.id_set.encoded.skipped),
        },
        "ood": {s.name: {"images": len(s.encoded), "files_sha256": _digest(s)} for s in measured.ood_sets},
        "skipped": {s.name: list(s.encoded.skipped) for s in measured.ood_sets if s.encoded.skipped},
        "temperature": config.evaluate.temperature,
        "template": config.evaluate.template,
        "options": _used_options(config.evaluate, measured.scores),
        "precision": str(bench.compute.dtype).removeprefix("torch."),
        "device": device_name(bench.compute.device),
        "versions": versions(),
        "rows": rows,
    }


def _row(config: Config, measured: Measured, name: str, ood: Scored) -> dict[str, Any]:
    settings = config.evaluate
    id_scores, ood_scores = measured.id_set.table.scores[name], ood.table.scores[name]
    try:
        metrics = evaluate_scores(id_scores, ood_scores, id_correct=measured.correct)
    except ValueError as error:
        raise UsageError(f"Score {name} on {ood.name} cannot be measured: {error}.") from error
    row: dict[str, Any] = {"ood": ood.name, "images": len(ood.encoded), "score": name, **_figures(metrics)}
    curve = acceptance_curve(id_scores, ood_scores)
    row["aupr_in_trapezoid"] = trapezoid_aupr(curve)
    row["aupr_out_trapezoid"] = trapezoid_aupr(curve.mirrored())
    if settings.recalls:
        row["fpr"] = {
            f"{recall:g}": {
                "id_positive": fpr_at_recall_id_positive(id_scores, ood_scores, recall),
                "ood_positive": fpr_at_recall_ood_positive(id_scores, ood_scores, recall),
            }
            for recall in settings.recalls
        }
    if settings.ci:
        intervals = bootstrap_ci(
            id_scores,
            ood_scores,
            measured.correct,
            generator=np.random.default_rng(config.seed),
            metrics=METRICS,
            n=settings.resamples,
            level=settings.level,
        )
        row["ci"] = {key: [interval.low, interval.high] for key, interval in intervals.items()}
        row["ci_level"] = settings.level
    return row


def _average(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of means over the OOD sets; intervals do not average and are left out."""
    made: dict[str, Any] = {
        "ood": AVERAGE,
        "images": sum(row["images"] for row in rows),
        "score": rows[0]["score"],
        **{key: float(np.mean([row[key] for row in rows])) for key in METRICS},
    }
    for key in MORE_METRICS:
        values = [row[key] for row in rows]
        made[key] = None if None in values else float(np.mean(values))
    if "fpr" in rows[0]:
        made["fpr"] = {
            recall: {side: float(np.mean([row["fpr"][recall][side] for row in rows])) for side in sides}
            for recall, sides in rows[0]["fpr"].items()
        }
    return made


def _figures(metrics: OodMetrics) -> dict[str, float | None]:
    return {key: getattr(metrics, key) for key in (*METRICS, "detection_error", "autc")}


def _digest(scored: Scored) -> str:
    """What tells one list of images from another, wherever it lies."""
    return files_digest(scored.encoded.images.paths, scored.encoded.images.root)


def _used_options(settings: EvaluateConfig, scores: Sequence[str]) -> dict[str, Any]:
    """The constants of those scores that were computed."""
    needs = {need for name in scores for need in find_score(name).requires}
    used: dict[str, Any] = {}
    if "words" in needs:
        used |= {name: getattr(settings, name) for name in ("words", "word_count", "word_groups")}
    if "knn" in scores:
        used["neighbours"] = settings.neighbours
    if any(name.startswith("mahalanobis") for name in scores):
        used["shrinkage"] = settings.shrinkage
    if "local_features" in needs:
        used["local_weight"] = settings.local_weight
    return used
