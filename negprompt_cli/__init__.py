"""negprompt: out-of-distribution detection with CLIP by learned negative prompts (NegPrompt, CVPR 2024).

Three layers, each ignorant of the one above it: `engine` (pure tensors), `data` (files in, features and artifacts
out; `steps` joins the two into the jobs a person asks for), `cli` (parse, call, print).

Conventions, said once for the whole package: a score is higher the more in-distribution (ID) an image is; ID is the
positive class; fractions, not per cent. Importing the package imports neither torch nor open_clip: the names of the
Python interface (`negprompt_cli.api`) are imported when they are first used.
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
