"""Load a CLIP model with open_clip: names, tags, `local-dir:` and `hf-hub:`, with errors that name the fix.

A pair of model and tag about which open_clip only warns (QuickGELU weights in a GELU architecture, or the reverse) is
refused, because its features would be silently wrong. open_clip downloads and caches weights; the variables HF_HOME and
HF_HUB_OFFLINE apply. Options of open_clip for training are not supported.
"""

import logging
import socket
import warnings
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.decoders import OpenClipTransform, Preprocess
from negprompt_cli.data.encoding.weight_files import chosen_weights, fault_of_weights, folder_as_weights
from negprompt_cli.data.sets.spec import user_path
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.clip import Clip, weights_digest
from negprompt_cli.engine.devices import Compute
from negprompt_cli.engine.model_identity import ModelIdentity
from negprompt_cli.errors import NegPromptError, UsageError, did_you_mean
from negprompt_cli.wording import some_of


def load_clip(config: ModelConfig, compute: Compute) -> Clip:
    """Load a frozen model with its own preprocessing and tokenizer on its device.

    Raises:
        UsageError: the model or tag is unknown (the message suggests names), the folder does not exist, or the weights do
            not fit the model because of QuickGELU.
        NegPromptError: the weights cannot be downloaded or read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import huggingface_hub
        import open_clip

        # open_clip, timm and the hub's client log every step and retry. Failures raise exceptions anyway.
        for chatty in ("timm", "huggingface_hub"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        tag = _check(config, open_clip)
        if not config.name.startswith("local-dir:"):
            _offline_without_network(huggingface_hub.constants)
        try:
            with _quiet_root():
                model = open_clip.create_model(config.name, pretrained=tag, require_pretrained=True)
                tokenizer = open_clip.get_tokenizer(config.name)
        except Exception as error:  # open_clip raises RuntimeErrors and errors of the hub, JSON, pickle and others.
            raise _load_failure(config, error) from error
    # A diverged training makes all parameters non-finite, so checking only biases and norms is enough, and fast.
    small = ((name, values) for name, values in model.named_parameters() if values.dim() < 2)
    if wrong := next((name for name, values in small if not values.isfinite().all()), None):
        raise NegPromptError(
            f"The weights of {config.name} contain values that are not finite, first in {wrong}. Perhaps their training "
            "diverged. Use other weights."
        )
    transform = OpenClipTransform.of(model)
    return Clip.wrap(
        model,
        preprocess=Preprocess(config.pixels, transform),
        preprocessing=transform.settings,
        tokenizer=tokenizer,
        identity=ModelIdentity(config.name, tag, weights_digest(model)),
        compute=compute,
    )


def weights_decisions(config: ModelConfig) -> tuple[Decision, ...]:
    """Return a decision about the file of weights that is used, if a model's folder has several."""
    if not config.name.startswith("local-dir:"):
        return ()
    folder = user_path(config.name.removeprefix("local-dir:"))
    chosen, others = chosen_weights(folder)
    if not others:
        return ()
    facts = {"folder": str(folder), "used": chosen, "not_used": others}
    return (
        Decision("weights", f"{folder} has several files of weights: {chosen} is used, not {some_of(others)}.", facts),
    )


def _check(config: ModelConfig, open_clip: Any) -> str | None:
    """Check model and tag before any download, and return the tag to use.

    Raises:
        UsageError: they cannot be used.
    """
    name, tag = config.name, config.pretrained
    if name.startswith(("local-dir:", "hf-hub:")) and tag not in (None, ModelConfig().pretrained):
        raise UsageError(
            f"Model {name} has its own weights, so the weights {tag} would not be used. Omit them, or replace the weights "
            "in a copy of the model's folder."
        )
    if name.startswith("local-dir:"):
        folder = user_path(name.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise UsageError(
                f"Model {name}: {folder / 'open_clip_config.json'} does not exist. "
                "local-dir: needs a folder with open_clip_config.json and the weights."
            )
        chosen_weights(folder)
        return None
    if name.startswith("hf-hub:"):
        return None
    if open_clip.get_model_config(name) is None:
        raise UsageError(f"Unknown model '{name}'.{_nearest(name, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag is None:
        known = f"open_clip has these weights: {', '.join(tags)}" if tags else "open_clip has no weights for it"
        raise UsageError(f"Model {name} needs pretrained weights; {known}.", remedy="pretrained")
    weights = open_clip.get_pretrained_cfg(name, tag)
    if not weights:
        path = user_path(tag)
        if path.is_file():
            return str(path)
        if path.is_dir():
            raise folder_as_weights(path)
        if path.suffix or len(path.parts) > 1:
            raise UsageError(f"There is no file of weights at {path}. Tags of {name}: {', '.join(tags) or 'none'}.")
        raise UsageError(f"Unknown pretrained tag '{tag}' for {name} (and no such file).{did_you_mean(tag, tags)}")
    has = bool(open_clip.get_model_config(name).get("quick_gelu", False))
    wants = bool(weights.get("quick_gelu", False))
    if has != wants:
        other = f"{name}-quickgelu" if wants else name.removesuffix("-quickgelu")
        raise UsageError(
            f"Weights '{tag}' were trained {'with' if wants else 'without'} QuickGELU, but model {name} is defined "
            f"{'with' if has else 'without'} it, so features would be wrong.",
            remedy="other-model",
            model=other,
        )
    return tag


def _offline_without_network(hub: Any) -> None:
    """Set the hub's client offline if its host cannot be resolved; otherwise it would retry for a minute."""
    if hub.HF_HUB_OFFLINE or getproxies():
        return
    try:
        socket.getaddrinfo(urlsplit(hub.ENDPOINT).hostname, 443)
    except OSError:
        hub.HF_HUB_OFFLINE = True


def _nearest(name: str, models: list[str]) -> str:
    hint = did_you_mean(name, models)
    # The whole list has over a hundred names; the message shows a few.
    return (
        hint
        if hint.startswith(" Did")
        else " `python -c 'import open_clip; print(open_clip.list_models())'` lists them."
    )


def _load_failure(config: ModelConfig, error: Exception) -> NegPromptError:
    lines = [line for line in str(error).strip().splitlines() if line.isprintable()]
    first = lines[0] if lines else type(error).__name__
    where = f"{config.name} {config.pretrained or ''}".strip()
    if config.name.startswith("local-dir:"):
        folder = user_path(config.name.removeprefix("local-dir:"))
        weights, _ = chosen_weights(folder)
        fault = fault_of_weights(folder / weights, where, error) if weights else f"{folder} has no weights file."
        return NegPromptError(f"Model {where} could not be loaded. {fault}")
    if config.pretrained is not None and (path := user_path(config.pretrained)).is_file():
        return NegPromptError(f"Model {config.name} could not be loaded. {fault_of_weights(path, config.name, error)}")
    return NegPromptError(
        f"Model {where} could not be loaded: {first}\n"
        "Without internet access, download the weights on another machine and copy its Hugging Face cache (HF_HOME) to this "
        "machine, or save the model there as a folder and copy that.",
        remedy="offline-model",
    )


class _quiet_root:
    """Silences the root logger, to which open_clip writes its progress and messages about errors."""

    def __enter__(self) -> None:
        self._level = logging.getLogger().level
        logging.getLogger().setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().setLevel(self._level)
