"""A CLIP whose image encoder runs in onnxruntime on the CPU; convolutional towers are about twice as fast as in torch.

The image tower is exported once per weights and library versions, and kept in the cache folder. Before it is used, its
features of random pixels are compared with torch's; if they differ by more than `TOLERANCE`, it is refused. Features are not
bit for bit equal to torch's, so the feature cache stores them separately. torch encodes texts as usual.
"""

import copy
import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from negprompt_cli.data.encoding.cache_folder import towers_folder
from negprompt_cli.data.encoding.onnx_files import LIBRARIES, onnx_model, require_libraries
from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.data.files.onnx_session import open_session
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError, UsageError, first_line

TOLERANCE = 1e-4
"""Largest allowed difference from torch in a component of a normalised feature."""
CHECKED_IMAGES = 3


@dataclass(frozen=True)
class OnnxClip(Clip):
    """A CLIP used like any other. `session` encodes images; `difference` is the largest difference from torch found."""

    session: Any
    pool: ThreadPoolExecutor
    difference: float

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images (B, 3, H, W) as `Clip.encode_images` does, with a part of them on each thread."""
        # Threads wait less if each has its own images than if they share each matrix product.
        shares = np.array_split(pixels.contiguous().numpy(), min(torch.get_num_threads(), len(pixels)))
        parts = self.pool.map(lambda share: self.session.run(None, {"pixels": share})[0], shares)
        return F.normalize(torch.from_numpy(np.concatenate(list(parts))), dim=-1)


def run_by_onnx(clip: Clip, *, keep: bool) -> OnnxClip:
    """Return the same CLIP with its image encoder in onnxruntime.

    Args:
        clip: a model on the CPU in float32.
        keep: whether the exported tower may be kept in the cache folder.

    Raises:
        UsageError: the model has another device or precision, or a library is missing.
        NegPromptError: the tower cannot be exported, or differs from torch.
    """
    if clip.device.type != "cpu" or clip.compute.dtype != torch.float32:
        raise UsageError(
            f"onnxruntime encodes images on the CPU in fp32 only, but the model is on {clip.device} in "
            f"{str(clip.compute.dtype).removeprefix('torch.')}.",
            remedy="runtime-torch",
        )
    require_libraries(remedy="runtime-torch")
    with ExitStack() as stack:
        folder = towers_folder() if keep else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / f"{_name(clip)}.onnx"
        found = None
        if path.is_file():
            with suppress(Exception):  # A damaged file is written again.
                found = _load(clip, path)
        if found is None or not found.difference <= TOLERANCE:
            _write(clip, path)
            found = _load(clip, path)
    if not found.difference <= TOLERANCE:
        raise NegPromptError(
            f"In onnxruntime the image encoder of {clip.identity} differs from torch by {found.difference:.2g}, which is "
            f"more than {TOLERANCE:g}.",
            remedy="runtime-torch",
        )
    return found


class _Tower(nn.Module):
    """The image tower alone: pixels (B, 3, H, W) to features (B, F)."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode preprocessed images (B, 3, H, W) as (B, F), not normalised."""
        features: Tensor | tuple[Tensor, ...] = self.visual(pixels)
        return features[0] if isinstance(features, tuple) else features  # CoCa's tower also returns its tokens.


def _name(clip: Clip) -> str:
    """Return the file name of the exported tower; it contains everything that the export depends on."""
    made_with = [f"{name} {version(name)}" for name in ("torch", *LIBRARIES)]
    text = "\n".join([clip.identity.weights_sha256, clip.preprocessing, *made_with])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _example(clip: Clip, images: int) -> Tensor:
    size: Any = clip.model.visual.image_size  # type: ignore[union-attr]
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(0))


def _write(clip: Clip, path: Path) -> None:
    tower = _Tower(copy.deepcopy(clip.model.visual)).eval()  # type: ignore[arg-type]
    model = onnx_model(tower, _example(clip, 2), takes="pixels", gives=["features"])
    try:
        content = model.SerializeToString()
    except Exception as error:  # protobuf is limited to 2 GiB.
        raise NegPromptError(f"The image encoder is too large for one ONNX file: {first_line(error)}") from error
    atomic_write_bytes(path, content)


def _load(clip: Clip, path: Path) -> OnnxClip:
    """Load an exported tower and compare it with torch."""
    session = open_session(path)
    given = {f.name: getattr(clip, f.name) for f in fields(Clip)}
    # Features differ by rounding, so the cache must store them separately.
    given["preprocessing"] = f"{clip.preprocessing} onnxruntime"
    pool = ThreadPoolExecutor(torch.get_num_threads())
    found = OnnxClip(**given, session=session, pool=pool, difference=0.0)
    pixels = _example(clip, CHECKED_IMAGES)
    difference = float((found.encode_images(pixels) - clip.encode_images(pixels)).abs().max())
    return OnnxClip(**given, session=session, pool=pool, difference=difference)
