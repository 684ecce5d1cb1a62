"""Write modules as ONNX with torch's exporter; it needs the libraries of the extra "export"."""

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from negprompt_cli.errors import NegPromptError, UsageError, first_line

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
MAX_BATCH = 2**31 - 1
"""Largest batch size; older exporters refuse a dimension without a limit."""


def require_libraries(*, remedy: str) -> None:
    """Check, before any work, that all libraries are installed.

    Raises:
        UsageError: a library is missing; the message says what to install.
    """
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UsageError(f"ONNX needs {name}. Run `pip install 'negprompt[export]'`.", remedy=remedy) from None


def onnx_model(module: nn.Module, pixels: Tensor, *, takes: str, gives: Sequence[str]) -> Any:
    """Convert a module to an ONNX model in memory, with its weights and a variable first dimension.

    Args:
        module: a module with one input tensor and one or several output tensors.
        pixels: an example with at least two images; the exporter would make a batch size of one a constant.
        takes: name of the input, which is that of the module's parameter.
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
        except Exception as error:  # The exporter raises its own errors and those of torch and onnxscript.
            raise NegPromptError(f"The model cannot be written as ONNX: {first_line(error)}") from error
    if program is None:
        raise NegPromptError("The ONNX exporter returned nothing.")
    return program.model_proto


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporters' logs and warnings, which are about their internals."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
