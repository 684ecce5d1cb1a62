"""Image paths in, features out, a batch at a time and in order: for lists that may never end.

Neither paths nor features are collected, so memory does not grow with their number, and the feature cache, which would
remember them all, is left out.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from negprompt_cli.choices import Decoder
from negprompt_cli.data.encoding.batches import IMAGES_PER_BATCH, Batch, Reading
from negprompt_cli.data.encoding.sharding import FEATURES, run_everywhere
from negprompt_cli.engine.clip import Clip


def stream_features(
    clip: Clip, paths: Iterable[Path], *, batch_size: int = 0, workers: int = -1, decoder: Decoder = "pil"
) -> Iterator[Batch]:
    """Encode images as they are listed.

    Args:
        clip: the model.
        paths: image files, taken a few batches ahead of what is yielded.
        batch_size: images per batch, 0 to choose by device.
        workers: decoding processes, -1 to choose.
        decoder: what decodes JPEGs.

    Yields:
        Batches in the order of `paths`, with their features.
    """
    batches = _batches(iter(paths), batch_size or IMAGES_PER_BATCH["stream"][clip.device.type])
    return run_everywhere(clip, batches, FEATURES, Reading(workers, decoder), first=1)


def _batches(paths: Iterator[Path], size: int) -> Iterator[list[Path]]:
    while batch := list(itertools.islice(paths, size)):
        yield batch
