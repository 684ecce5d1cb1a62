"""negprompt: out-of-distribution detection with CLIP by learned negative prompts (NegPrompt, CVPR 2024).

There are four layers, and none imports from a later one: `engine` computes on tensors, `data` turns files into features and
artifacts, `steps` has one job for each command, and `cli` parses options and prints results.

Conventions of the whole package: a higher score means that an image is more in-distribution (ID), ID is the positive class,
and rates are fractions, not per cent. Importing the package imports neither torch nor open_clip: the names of the Python
interface (`negprompt_cli.api`) are imported when they are first used.
"""

from typing import TYPE_CHECKING, Any

from negprompt_cli._version import __version__ as __version__

if TYPE_CHECKING:
    from negprompt_cli.api import (
        Detector,
        calibrate,
        fit,
        fit_embeddings,
        load,
        load_model,
        save,
        score_features,
        score_images,
        transfer,
        zero_shot,
    )

__all__ = [
    "Detector",
    "calibrate",
    "fit",
    "fit_embeddings",
    "load",
    "load_model",
    "save",
    "score_features",
    "score_images",
    "transfer",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    """Import a name of the Python interface when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from negprompt_cli import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """The names of the Python interface among the rest."""
    return sorted({*globals(), *__all__})
