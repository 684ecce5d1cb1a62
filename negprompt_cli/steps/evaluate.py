"""Evaluation: ID images against OOD sets, every score, every metric, full provenance.

The document written is the contract's "negprompt/evaluation/1". Fractions, not per cent; both FPR95 conventions are given
under names that say which class is positive. Leaves out: choosing anything; a result is only measured here.
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from negprompt_cli import __version__
from negprompt_cli.data.artifacts import Prompts, check_model, load_prompts
from negprompt_cli.data.atomic import atomic_write_text
from negprompt_cli.data.config import Config
from negprompt_cli.data.features import EncodedSet
from negprompt_cli.data.imagesets import ImageSet, default_ood, match_classes, split_specs
from negprompt_cli.data.progress import Progress
from negprompt_cli.engine.metrics import OodMetrics, evaluate_scores
from negprompt_cli.engine.scores import check_scores, find_score
from negprompt_cli.engine.scores.bank import PromptBank
from negprompt_cli.engine.scores.compute import ScoreTable, compute_scores
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.outputs import refuse_existing, write_config
from negprompt_cli.steps.preflight import require_prompts, together
from negprompt_cli.steps.workbench import Workbench

SCHEMA = "negprompt/evaluation/1"
METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95_id_positive", "fpr95_ood_positive", "oscr")


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
class Evaluation:
    """What an evaluation made: the document, and the scores behind it."""

    path: Path
    document: dict[str, Any]
    id_set: Scored
    ood_sets: tuple[Scored, ...]


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
    return [own]


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
            an unknown score, or one that needs what the artifact does not have.
        NegPromptError: an image is broken, the model cannot be had, the disk is full.
    """
    refuse_existing(out, overwrite=overwrite)
    names = list(dict.fromkeys(config.evaluate.scores))
    for name in names:
        find_score(name)
    specs = ood_specs(config)
    bench = bench or Workbench(config, progress)
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
    bank = make_bank(bench, prompts, names)
    check_scores(names, bank)
    id_set = _score(bench, id_images, bank, names)
    if (id_set.encoded.labels < 0).any():
        raise UsageError(f"{config.data.spec}: ID images without a class cannot be evaluated ({id_images.layout}).")
    ood_sets = tuple(_score(bench, images, bank, names) for images in ood_images)
    document = _document(config, bench, prompts, prompts_path, id_set, ood_sets, names)
    atomic_write_text(out, json.dumps(document, indent=1) + "\n")
    write_config(config, out)
    return Evaluation(out, document, id_set, ood_sets)


def make_bank(bench: Workbench, prompts: Prompts, scores: Sequence[str]) -> PromptBank:
    """Encode an artifact's prompts, and the zero-shot prompts where a score asks for them."""
    clip = bench.clip
    encoder = clip.prompt_encoder(
        prompts.names, context=prompts.positive.shape[-2], budget=bench.budget, notice=bench.progress.warn
    )
    with torch.no_grad():
        positives = encoder(prompts.positive.to(clip.device))[0]
        negatives = None if prompts.negative is None else encoder(prompts.negative.to(clip.device)).transpose(0, 1)
    zero_shot = None
    if any("zero_shot" in find_score(name).requires for name in scores):
        zero_shot = clip.encode_template(prompts.names, template=bench.config.evaluate.template, budget=bench.budget)
    return PromptBank(positives, negatives, zero_shot, clip.logit_scale)


def _score(bench: Workbench, images: ImageSet, bank: PromptBank, names: Sequence[str]) -> Scored:
    encoded = bench.encode(images)
    features = encoded.features.to(bench.clip.device)
    return Scored(encoded, compute_scores(features, bank, names, temperature=bench.config.evaluate.temperature))


def _refuse_same_names(sets: Sequence[ImageSet]) -> None:
    seen: dict[str, str] = {}
    for images in sets[1:]:
        if images.name in seen:
            raise UsageError(f"Two OOD sets are called {images.name}: {seen[images.name]} and {images.spec}.")
        seen[images.name] = images.spec


def _document(
    config: Config,
    bench: Workbench,
    prompts: Prompts,
    path: Path,
    id_set: Scored,
    ood_sets: Sequence[Scored],
    names: Sequence[str],
) -> dict[str, Any]:
    labels = id_set.encoded.labels.numpy()
    correct = id_set.table.predictions == labels
    rows = []
    for name in names:
        results = [
            (s, evaluate_scores(id_set.table.scores[name], s.table.scores[name], id_correct=correct)) for s in ood_sets
        ]
        rows += [{"ood": s.name, "images": len(s.encoded), "score": name, **_figures(m)} for s, m in results]
        means = {key: float(np.mean([_figures(m)[key] for _, m in results])) for key in METRICS}
        rows.append({"ood": "average", "images": sum(len(s.encoded) for s in ood_sets), "score": name, **means})
    return {
        "schema": SCHEMA,
        "limited": config.data.limit is not None,
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
            "seed": prompts.config.seed,
            "shots": prompts.config.data.shots,
            "context": prompts.positive.shape[-2],
            "learned_on_classes": prompts.learned_on,
        },
        "id": {
            "name": id_set.name,
            "images": len(id_set.encoded),
            "classes": len(prompts.classes),
            "accuracy": float(correct.mean()),
            "skipped": list(id_set.encoded.skipped),
        },
        "skipped": {s.name: list(s.encoded.skipped) for s in ood_sets if s.encoded.skipped},
        "temperature": config.evaluate.temperature,
        "template": config.evaluate.template,
        "precision": str(bench.compute.dtype).removeprefix("torch."),
        "versions": {"negprompt": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "rows": rows,
    }


def _figures(metrics: OodMetrics) -> dict[str, float]:
    return {key: float(getattr(metrics, key)) for key in METRICS}
