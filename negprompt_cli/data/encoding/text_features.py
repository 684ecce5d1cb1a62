"""Features of texts on disk, so that the same model never encodes the same prompts or word lists twice.

They are kept beside the image features, in a store of their own. The key of a list of texts covers the list as a whole:
the same texts in other company round differently, and with the cache a result has the same bits as without it.
"""

import hashlib
from collections.abc import Callable, Iterable
from importlib.metadata import version

import torch
from torch import Tensor

from negprompt_cli.data.encoding.feature_cache import KEY_BYTES, FeatureStore, StoreKey
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError
from negprompt_cli.progress import Progress

ENCODER = 1
"""Raise it when the code encodes the same texts to other features."""


def text_features(
    clip: Clip, parts: Iterable[bytes], count: int, make: Callable[[], Tensor], progress: Progress
) -> Tensor:
    """Features of texts from the cache, or made and remembered.

    Args:
        clip: the model. If the features are known, nothing is asked of it that has to be loaded.
        parts: everything the features depend on besides the model: kind, texts, templates, contexts.
        count: number of features.
        make: makes the features (count, F).
        progress: told about damaged files and a cache that cannot be written.

    Returns:
        (count, F) float32 features on the model's device. A cache that cannot be written is warned of.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    base = digest.digest()
    keys = [hashlib.sha256(base + i.to_bytes(8, "big")).digest()[:KEY_BYTES] for i in range(count)]
    what = f"texts {ENCODER}, open_clip {version('open_clip_torch')}, {clip.text_path}"
    precision = f"{str(clip.compute.dtype).removeprefix('torch.')} {clip.device.type}, texts"
    store = FeatureStore(StoreKey(str(clip.identity), clip.identity.weights_sha256, what, precision), progress=progress)
    found, known = store.get(keys)
    if found is not None and known.all():
        return found.to(clip.device)
    with torch.no_grad():
        made = make()
    try:
        store.add(keys, made.float().cpu())
        store.tidy()
    except NegPromptError as error:
        progress.warn(str(error))
    return made
