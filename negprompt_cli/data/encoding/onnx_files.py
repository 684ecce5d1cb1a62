"""Modules written as ONNX by torch's own exporter, and its libraries, which are the extra "export"."""

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from negprompt_cli.errors import NegPromptError, UsageError

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
MAX_BATCH = 2**31 - 1
"""Images a batch may have at most: older exporters refuse a dimension without a bound."""


def require_libraries(*, remedy: str) -> None:
    """Stop before any work where a library is missing.

    Raises:
        UsageError: it is; says what to install, and `remedy`.
    """
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UsageError(f"ONNX needs {name}. Run `pip install 'negprompt[export]'`.", remedy=remedy) from None


def onnx_model(module: nn.Module, pixels: Tensor, *, takes: str, gives: Sequence[str]) -> Any:
    """Write a module as an ONNX model in memory, weights inside, first dimension free.

    Args:
        module: takes one tensor, gives one or several.
        pixels: an example of two or more images; a batch of one would be taken for a constant.
        takes: name of the input, that of the module's own parameter.
        gives: names of the outputs.

    Raises:
        NegPromptError: the exporter cannot express the module.
    """
    with quiet_exporter():
        try:
            program = torch.onnx.export(
                module,
                (pixels,),
                input_names=[takes],
                output_names=list(gives),
                dynamic_shapes={takes: {0: torch.export.Dim("batch", max=MAX_BATCH)}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter raises errors of torch, of onnxscript and of its own
            raise NegPromptError(f"The model cannot be written as ONNX: {first_line(error)}") from error
    if program is None:
        raise NegPromptError("The ONNX exporter returned nothing.")
    return program.model_proto


def first_line(error: Exception) -> str:
    """What an exporter says is wrong, without its report of dozens of lines."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporters' logs and warnings, which speak of their own insides."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
