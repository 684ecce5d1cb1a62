"""A CLIP that an earlier command loaded: its facts come from the cache, and it is loaded only when it must encode something.

With cached features most commands need only a model's identity, preprocessing and logit scale, and building the model takes
longer than everything else. Two kinds of models are remembered: folders (`local-dir:`) by the names, sizes and times of
their files, and open_clip's own weights by their tag and open_clip's version. If the model is another one when it is loaded,
the command stops.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from negprompt_cli._version import __version__
from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.cache_folder import models_folder
from negprompt_cli.data.encoding.decoders import Preprocess
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.data.sets.spec import user_path
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import Compute
from negprompt_cli.engine.model_identity import ModelIdentity
from negprompt_cli.errors import NegPromptError


@dataclass(frozen=True)
class Facts:
    """What is known of a model without loading it; the fields are those of `Clip`."""

    identity: ModelIdentity
    preprocessing: str
    logit_scale: float
    width: int
    text_path: tuple[str, str]


_FACTS = TypeAdapter(Facts)


class KnownClip(Clip):
    """A CLIP used like any other; what `Facts` does not hold is loaded when it is first asked for."""

    def __init__(self, facts: Facts, config: ModelConfig, compute: Compute, load: Callable[[], Clip]) -> None:
        # Attributes of a frozen dataclass: those that are left out are loaded by `__getattr__`.
        vars(self).update(
            _facts=facts,
            _load=load,
            identity=facts.identity,
            preprocessing=facts.preprocessing,
            preprocess=Preprocess(config.pixels, _Transform(self)),
            compute=compute,
        )

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "tokenizer", "plan"):
            return getattr(self.loaded, name)
        raise AttributeError(name)

    @cached_property
    def loaded(self) -> Clip:
        """The model itself.

        Raises:
            UsageError, NegPromptError: as `load_clip`; or the model is not the one that was remembered.
        """
        clip: Clip = vars(self)["_load"]()
        if facts_of(clip) != vars(self)["_facts"]:
            raise NegPromptError(
                f"Model {self.identity.name} is not the one that was loaded before: its weights are "
                f"{clip.identity.weights_sha256[:12]} now and were {self.identity.weights_sha256[:12]}. Run the command "
                "again.",
            )
        return clip

    @property
    def logit_scale(self) -> float:
        """As `Clip.logit_scale`."""
        return float(vars(self)["_facts"].logit_scale)

    @property
    def width(self) -> int:
        """As `Clip.width`."""
        return int(vars(self)["_facts"].width)

    @property
    def text_path(self) -> tuple[str, str]:
        """As `Clip.text_path`."""
        facts: Facts = vars(self)["_facts"]
        return facts.text_path


@dataclass(frozen=True)
class _Transform:
    """The preprocessing of a model that is loaded with the first image; other processes get the model's own."""

    clip: KnownClip

    def __call__(self, image: Image.Image) -> Tensor:
        return self._own(image)

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self._own,)

    @property
    def _own(self) -> Callable[[Any], Tensor]:
        own = self.clip.loaded.preprocess
        assert isinstance(own, Preprocess)
        return own.transform


def _same(transform: Any) -> Any:
    return transform


def facts_of(clip: Clip) -> Facts:
    """The facts of a loaded model."""
    return Facts(clip.identity, clip.preprocessing, clip.logit_scale, clip.width, clip.text_path)


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
            atomic_write_bytes(path, _FACTS.dump_json(facts_of(clip)))
        return clip

    try:
        facts = _FACTS.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return load()
    return KnownClip(facts, config, compute, load)


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
