"""Scores that need patch features, computed batch by batch from the image files.

Patch features take about 400 KB an image with a ViT-B/16, so they are used and dropped, never cached.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from negprompt_cli.data.images import open_rgb
from negprompt_cli.data.imagesets import ImageSet
from negprompt_cli.engine.local_features import encode_local, why_no_local_features
from negprompt_cli.engine.scores.bank import PromptBank
from negprompt_cli.engine.scores.compute import compute_scores
from negprompt_cli.engine.scores.options import ScoreOptions
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.workbench import Workbench

FEW_IMAGES = 64
"""Up to here worker processes take longer to start than to help."""


def require_local_features(bench: Workbench, names: Sequence[str]) -> None:
    """Stop with the reason where the model gives no local features.

    Raises:
        UsageError: it gives none.
    """
    reason = why_no_local_features(bench.clip.model)
    if reason:
        raise UsageError(
            f"Score {names[0]!r} needs local (patch) features, and {bench.clip.identity.name} gives none: {reason}. "
            f"Leave out {', '.join(names)} with --scores, or use a ViT such as --model ViT-B-16."
        )


def local_scores(
    bench: Workbench,
    images: ImageSet,
    bank: PromptBank,
    names: Sequence[str],
    *,
    temperature: float,
    options: ScoreOptions,
) -> dict[str, npt.NDArray[np.float64]]:
    """Scores (N,) by name for N readable images, from the files.

    Raises:
        BrokenImage: a file cannot be read.
    """
    asked = bench.config.compute
    batch = asked.batch_size or (64 if bench.clip.device.type != "cpu" else 16)
    workers = asked.workers if asked.workers >= 0 else 0 if len(images) <= FEW_IMAGES else 2
    loader: DataLoader[Any] = DataLoader(_Pixels(images, bench.clip.preprocess), batch_size=batch, num_workers=workers)
    parts: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
    with bench.progress.task(f"Patches of {images.name}", len(images), "images") as task, torch.no_grad():
        for pixels in loader:
            features, local = encode_local(bench.clip, pixels)
            table = compute_scores(
                features, bank, names, temperature=temperature, options=options, local_features=local
            )
            for name in names:
                parts[name].append(table.scores[name])
            task.advance(len(pixels))
    return {name: np.concatenate(values) for name, values in parts.items()}


class _Pixels(Dataset[Tensor]):
    """Decoded and preprocessed images, by place."""

    def __init__(self, images: ImageSet, preprocess: Any) -> None:
        self._paths, self._preprocess = images.paths, preprocess

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        pixels: Tensor = self._preprocess(open_rgb(self._paths[index]))
        return pixels
