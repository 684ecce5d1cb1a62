"""Patch features, computed in batches from the image files, for scores that need them and for a loss of stage 1.

Patch features take about 400 KB per image with a ViT-B/16, so they are never cached.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from negprompt_cli.data.encoding.batches import IMAGES_PER_BATCH, Reading, Work
from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.data.encoding.sharding import JOBS, Job, run_everywhere
from negprompt_cli.data.sets.imagesets import ImageSet
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.local_features import encode_local, why_no_local_features
from negprompt_cli.engine.scores.compute import compute_scores
from negprompt_cli.engine.scores.options import ScoreOptions
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.workbench import Workbench


def require_local_features(bench: Workbench, names: Sequence[str]) -> None:
    """Check that the model has local (patch) features if a score needs them.

    Raises:
        UsageError: it has none; the message has the reason.
    """
    reason = why_no_local_features(bench.clip.model)
    if reason:
        raise UsageError(
            f"Score {names[0]!r} needs local (patch) features, but {bench.clip.identity.name} has none: {reason}.",
            remedy="local-scores",
            names=",".join(names),
        )


def local_scores(
    bench: Workbench,
    images: ImageSet,
    bank: ScoreInputs,
    names: Sequence[str],
    *,
    temperature: float,
    options: ScoreOptions,
) -> dict[str, npt.NDArray[np.float64]]:
    """Scores (N,) by name of N readable images, computed from the files.

    Raises:
        BrokenImage: a file cannot be read.
    """
    found = _over_images(bench, images, _job(bank, names, temperature, options))
    return {name: found[name].numpy() for name in names}


def patch_features(bench: Workbench, images: ImageSet) -> Tensor:
    """Patch features (N, R, F) of N readable images, in half precision on the CPU: 200 KB per image with a ViT-B/16.

    Raises:
        UsageError: the model has no patch features.
        BrokenImage: a file cannot be read.
    """
    reason = why_no_local_features(bench.clip.model)
    if reason:
        raise UsageError(
            f"The loss of stage 1 uses patches (positive.patches), but {bench.clip.identity.name} has none: {reason}."
        )
    return _over_images(bench, images, PATCHES)["patches"]


def _over_images(bench: Workbench, images: ImageSet, job: Job) -> dict[str, Tensor]:
    """The results (N, ...) by name of a job on N images, on the CPU."""
    asked = bench.config.compute
    size = asked.image_batch or IMAGES_PER_BATCH["patches"][bench.clip.device.type]
    batches = (list(images.paths[start : start + size]) for start in range(0, len(images), size))
    parts: dict[str, list[Tensor]] = {}
    with bench.progress.task(f"Encoding patches of {images.name}", len(images), "images") as task:
        reading = Reading(asked.workers, bench.config.data.decoder)
        for batch in run_everywhere(bench.clip, batches, job, reading):
            if broken := next((error for error in batch.errors if error is not None), None):
                raise BrokenImage(broken)
            for name, values in batch.results.items():
                parts.setdefault(name, []).append(values.cpu())
            task.advance(len(batch.paths))
    return {name: torch.cat(values) for name, values in parts.items()}


def _job(bank: ScoreInputs, names: Sequence[str], temperature: float, options: ScoreOptions) -> Job:
    """The scores as a job for any rank; `_work` reads it."""
    values = {f.name: getattr(bank, f.name) for f in fields(bank)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in values.items() if isinstance(value, float)}
    settings = {"names": list(names), "temperature": temperature, "options": asdict(options), "bank": numbers}
    return Job("local-scores", settings, tensors)


def _work(job: Job, clip: Clip) -> Work:
    """A function to scores (g,) float64 by name from g preprocessed images (g, 3, H, W)."""
    asked = job.settings
    empty = {"negatives": None, "zero_shot": None}
    tensors = {name: tensor.to(clip.device) for name, tensor in job.tensors.items()}
    bank = ScoreInputs(**{**empty, **tensors, **asked["bank"]})
    names, temperature, options = asked["names"], asked["temperature"], ScoreOptions(**asked["options"])

    def score(clip: Clip, pixels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            features, local = encode_local(clip, pixels)
            table = compute_scores(
                features, bank, names, temperature=temperature, options=options, local_features=local
            )
        return {name: torch.from_numpy(table.scores[name]) for name in names}

    return score


def _patch_work(job: Job, clip: Clip) -> Work:
    """A function to patch features (g, R, F), in half precision, from g preprocessed images (g, 3, H, W)."""

    def encode(clip: Clip, pixels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"patches": encode_local(clip, pixels)[1].half()}

    return encode


PATCHES = Job("patches")
JOBS["local-scores"] = _work
JOBS["patches"] = _patch_work
