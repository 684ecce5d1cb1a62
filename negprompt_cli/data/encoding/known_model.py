"""A CLIP that an earlier command loaded: its facts come from the cache, and it is loaded only when it must encode something.

With cached features most commands need only a model's identity, preprocessing and logit scale, and building the model takes
longer than everything else. Two kinds of models are remembered: folders (`local-dir:`) by the names, sizes and times of
their files, and open_clip's own weights by their tag and open_clip's version. If the model is another one when it is loaded,
the command stops.
"""

import hashlib
import os
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from negprompt_cli._version import __version__
from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.cache_folder import models_folder
from negprompt_cli.data.encoding.decoders import OpenClipTransform, Preprocess
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.data.sets.spec import user_path
from negprompt_cli.engine.clip import Clip, ClipFacts, Towers
from negprompt_cli.engine.devices import Compute
from negprompt_cli.errors import NegPromptError

_FACTS = TypeAdapter(ClipFacts)


def open_clip_model(config: ModelConfig, compute: Compute) -> Clip:
    """Open a model: at once if it is known, else by loading it, and remember it.

    Raises:
        UsageError, NegPromptError: as `load_clip`; a known model raises them when it is loaded.
    """
    path = _record(config)
    if path is None:
        return load_clip(config, compute)

    def load() -> Clip:
        clip = load_clip(config, compute)
        with suppress(NegPromptError):  # a cache that cannot be written costs time only
            atomic_write_bytes(path, _FACTS.dump_json(clip.facts))
        return clip

    try:
        facts = _FACTS.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return load()

    @cache
    def towers() -> Towers:
        clip = load()
        if clip.facts != facts:
            raise NegPromptError(
                f"Model {facts.identity.name} is not the one that was loaded before: its weights are "
                f"{clip.identity.weights_sha256[:12]} now and were {facts.identity.weights_sha256[:12]}. Run the command "
                "again.",
            )
        return clip.towers()

    preprocess = Preprocess(config.pixels, OpenClipTransform(facts.preprocessing))
    return Clip(**vars(facts), preprocess=preprocess, compute=compute, towers=towers)


def _record(config: ModelConfig) -> Path | None:
    """The file of a model's facts; None if what is on this machine does not tell its weights."""
    parts = [__version__, version("open_clip_torch"), config.name, str(config.pretrained)]
    if config.name.startswith("local-dir:"):
        folder = user_path(config.name.removeprefix("local-dir:"))
        try:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                stat = file.stat()
                parts.append(f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}")
        except OSError:
            return None
        if not (folder / "open_clip_config.json").is_file():
            return None
    else:
        tag = config.pretrained
        if config.name.startswith("hf-hub:") or tag is None or os.sep in tag or user_path(tag).exists():
            return None
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return models_folder() / f"{digest[:24]}.json"
