"""The origin of a result: versions, device and digests, in the same form in every result.

Only facts that determine the bits of a result are recorded: no time, no user, no path. Equal work gives equal bytes.
"""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from negprompt_cli._version import __version__

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def versions(*, exported: bool = False) -> dict[str, str]:
    """Return the versions of this package, Python and the numerical libraries, on which the bits of a result depend.

    Args:
        exported: whether an exported file computes the result with onnxruntime.
    """
    if exported:
        libraries = {"onnxruntime": installed("onnxruntime"), "pillow": installed("pillow")}
    else:
        import torch

        libraries = {"torch": torch.__version__, "open_clip": installed("open_clip_torch")}
    return {
        "negprompt": __version__,
        "python": platform.python_version(),
        **libraries,
        "numpy": installed("numpy"),
    }


def device_name(device: "torch.device") -> str:
    """Return what determines the bits of a processor: a GPU's name, or a CPU's kind, vector instructions and threads."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = f"{device.type} {platform.machine()}"
    if device.type != "cpu":
        return name
    return f"{name} {torch.backends.cpu.get_cpu_capability()}, threads: {torch.get_num_threads()}"


def features_digest(features: "Tensor", labels: "Tensor") -> str:
    """Return the sha256 of image features (N, F) as float32 and labels (N,) as int64, in order.

    It depends on the content of the images, the model and the arithmetic: a changed pixel, weight or rounding changes it.
    """
    digest = hashlib.sha256(f"{tuple(features.shape)}\n".encode())
    digest.update(features.detach().cpu().float().contiguous().numpy().data)
    digest.update(labels.detach().cpu().long().contiguous().numpy().data)
    return digest.hexdigest()


def installed(package: str, missing: str = "unknown") -> str:
    """Return the version of an installed package without importing it; `missing` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return missing
