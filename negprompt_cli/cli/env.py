"""`negprompt env`: the versions, devices and settings that a bug report needs."""

import json
import os
import platform
from typing import Annotated, Any

import typer

from negprompt_cli._version import __version__
from negprompt_cli.cli.options import TAG, Common, only, option

EXAMPLES = (
    "negprompt env",
    "negprompt env --model ViT-B-16 --pretrained openai --json",
)

PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "safetensors",
    "numpy",
    "scikit-learn",
    "pillow",
    "typer",
    "pydantic",
    "rich",
)
VARIABLES = (
    "NEGPROMPT_DATA_ROOT",
    "NEGPROMPT_CACHE",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
    "XDG_CACHE_HOME",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
)


def env(
    common: Annotated[Common, only("device", "json")],
    model: str | None = option("Also load this model and show how its text is encoded."),
    pretrained: str | None = TAG,
) -> None:
    """Print versions, devices and settings for a bug report."""
    import torch

    from negprompt_cli.data.encoding.cache_folder import cache_folder
    from negprompt_cli.data.encoding.shared_model import agree_on_compute
    from negprompt_cli.data.results.provenance import installed
    from negprompt_cli.engine.devices import choose_compute
    from negprompt_cli.engine.parallel.rank_calls import current_team

    team, device = current_team(), common.device or "auto"
    compute, places = agree_on_compute(team, device, "auto") if team else (choose_compute(device), ())
    facts: dict[str, Any] = {
        "negprompt": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: installed(name, "not installed") for name in PACKAGES},
        "device": compute.reason,
        **({"processes": [f"rank {i}: {place}" for i, place in enumerate(places)]} if team else {}),
        **({"backend": team.backend} if team else {}),
        "threads": torch.get_num_threads(),
        "cuda devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cache": str(cache_folder()),
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    if model is not None:
        from negprompt_cli.config import ModelConfig
        from negprompt_cli.data.encoding.models import load_clip

        clip = load_clip(ModelConfig(name=model, pretrained=pretrained), compute)
        facts |= {
            "model": str(clip.identity),
            "weights_sha256": clip.identity.weights_sha256,
            "text path": clip.plan.path,
            "text path reason": clip.plan.reason,
            "context length": clip.plan.context_length,
            "text width": clip.width,
            "logit scale": clip.logit_scale,
            "preprocessing": clip.preprocessing,
        }
    if common.json:
        typer.echo(json.dumps(facts, indent=1))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {', '.join(value) or 'none' if isinstance(value, list) else value}")
