"""Loading a CLIP through open_clip: names, tags, `local-dir:` and `hf-hub:`, with errors that name the fix.

A model/tag pair that open_clip only warns about (QuickGELU weights in a GELU architecture, or the reverse) is refused:
its features would be silently wrong. Weights come from open_clip's own download path and cache (HF_HOME,
HF_HUB_OFFLINE are honoured). Leaves out: training-time options of open_clip.
"""

import logging
import socket
import warnings
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.decoders import Preprocess
from negprompt_cli.data.encoding.weight_files import chosen_weights, fault_of_weights, folder_as_weights
from negprompt_cli.data.sets.spec import user_path
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.clip import Clip, weights_digest
from negprompt_cli.engine.devices import Compute
from negprompt_cli.engine.model_identity import ModelIdentity
from negprompt_cli.errors import NegPromptError, UsageError, did_you_mean
from negprompt_cli.wording import some_of


def load_clip(config: ModelConfig, compute: Compute) -> Clip:
    """Load a model with its own preprocessing and tokenizer, frozen, on its devices.

    Raises:
        UsageError: unknown model or tag (nearest names offered), no such folder, or a QuickGELU mismatch.
        NegPromptError: the weights cannot be fetched or read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import huggingface_hub
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        # open_clip, timm and the hub's client announce every step and every retry; what fails comes as an exception.
        for chatty in ("timm", "huggingface_hub"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        tag = _check(config, open_clip)
        if not config.name.startswith("local-dir:"):
            _look_into_the_cache_only_without_network(huggingface_hub.constants)
        try:
            with _quiet_root():
                model = open_clip.create_model(config.name, pretrained=tag, require_pretrained=True)
                tokenizer = open_clip.get_tokenizer(config.name)
        except Exception as error:  # open_clip raises anything from RuntimeError to hub, JSON and pickle errors
            raise _load_failure(config, error) from error
    # A training that diverged leaves no parameter finite, so biases and norms tell, which takes no time.
    small = ((name, values) for name, values in model.named_parameters() if values.dim() < 2)
    if wrong := next((name for name, values in small if not values.isfinite().all()), None):
        raise NegPromptError(
            f"The weights of {config.name} hold values that are not finite numbers, first in {wrong}, as a training that "
            "diverged leaves them. Use other weights."
        )
    preprocessing = PreprocessCfg(**model.visual.preprocess_cfg)
    return Clip.wrap(
        model,
        preprocess=Preprocess(config.pixels, image_transform_v2(preprocessing, is_train=False)),
        preprocessing=repr(sorted(asdict(preprocessing).items())),
        tokenizer=tokenizer,
        identity=ModelIdentity(config.name, tag, weights_digest(model)),
        compute=compute,
    )


def weights_decisions(config: ModelConfig) -> tuple[Decision, ...]:
    """Which of several files of weights in a model's folder is used."""
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
    """Refuse what cannot work before anything is downloaded; return the tag that applies."""
    name, tag = config.name, config.pretrained
    if name.startswith(("local-dir:", "hf-hub:")) and tag not in (None, ModelConfig().pretrained):
        raise UsageError(
            f"Model {name} has weights of its own, so the weights {tag} would not be used. Leave them out, or put them into "
            "a copy of the model's folder in the place of its own."
        )
    if name.startswith("local-dir:"):
        folder = user_path(name.removeprefix("local-dir:"))
        if not (folder / "open_clip_config.json").is_file():
            raise UsageError(
                f"Model {name}: {folder / 'open_clip_config.json'} does not exist. "
                "local-dir: takes a folder with open_clip_config.json and the weights beside it."
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
            raise UsageError(
                f"There is no file of weights at {path}. Weights of {name} by tag: {', '.join(tags) or 'none'}."
            )
        raise UsageError(f"Unknown pretrained tag '{tag}' for {name} (and no such file).{did_you_mean(tag, tags)}")
    has = bool(open_clip.get_model_config(name).get("quick_gelu", False))
    wants = bool(weights.get("quick_gelu", False))
    if has != wants:
        other = f"{name}-quickgelu" if wants else name.removesuffix("-quickgelu")
        raise UsageError(
            f"Weights '{tag}' were trained {'with' if wants else 'without'} QuickGELU, but model {name} is built "
            f"{'with' if has else 'without'} it, so features would be wrong.",
            remedy="other-model",
            model=other,
        )
    return tag


def _look_into_the_cache_only_without_network(hub: Any) -> None:
    """Set the hub's client offline where its host has no address: it would keep trying for a minute, cached or not."""
    if hub.HF_HUB_OFFLINE or getproxies():
        return
    try:
        socket.getaddrinfo(urlsplit(hub.ENDPOINT).hostname, 443)
    except OSError:
        hub.HF_HUB_OFFLINE = True


def _nearest(name: str, models: list[str]) -> str:
    hint = did_you_mean(name, models)
    # The whole list is over a hundred names; a person wants to see a few.
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
        fault = fault_of_weights(folder / weights, where, error) if weights else f"{folder} has no file of weights."
        return NegPromptError(f"Model {where} could not be loaded. {fault}")
    if config.pretrained is not None and (path := user_path(config.pretrained)).is_file():
        return NegPromptError(f"Model {config.name} could not be loaded. {fault_of_weights(path, config.name, error)}")
    return NegPromptError(
        f"Model {where} could not be loaded: {first}\n"
        "Without internet, download the weights on another machine and copy its Hugging Face cache (HF_HOME) here, or save "
        "the model there as a folder.",
        remedy="offline-model",
    )


class _quiet_root:
    """Silence the root logger, which open_clip writes its progress and its pre-error messages to."""

    def __enter__(self) -> None:
        self._level = logging.getLogger().level
        logging.getLogger().setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().setLevel(self._level)
