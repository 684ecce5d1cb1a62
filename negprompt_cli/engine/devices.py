"""Choice of the device and the number format of the computation, with a line that describes it.

Each process computes on one device. If torchrun started several processes, each takes the device of its local rank.
"""

from dataclasses import dataclass

import torch

from negprompt_cli.engine.parallel.ranks import ALONE, Ranks
from negprompt_cli.errors import UsageError, did_you_mean

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Compute:
    """Where and how a process computes.

    `dtype` is the number format of the image encoder. Text encoding and training always use float32, because the gradients
    of contexts are small. `reason` describes the choice in one line.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str


def choose_compute(device: str = "auto", *, precision: str = "auto", ranks: Ranks = ALONE) -> Compute:
    """Resolve the settings `device` and `precision` against the hardware present.

    Args:
        device: auto, cpu, cuda, cuda:N or mps. With several processes on a machine, local rank r takes the CUDA device
            N + r (cuda means cuda:0).
        precision: auto, fp32, bf16 or fp16.
        ranks: this process among those of its job.

    Raises:
        UsageError: the device does not exist here, there are fewer devices than processes, or the device does not support
            the precision or several processes.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"Unknown precision '{precision}'.{did_you_mean(precision, PRECISIONS)}")
    chosen, about = _choose_device(device, ranks)
    dtype, name = _choose_dtype(chosen, precision)
    return Compute(chosen, dtype, f"{chosen}{about}, image encoder in {name}")


def _choose_device(text: str, ranks: Ranks) -> tuple[torch.device, str]:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if text == "auto":
        if cuda:
            index = _cuda_index(0, ranks)
            return torch.device("cuda", index), f" ({torch.cuda.get_device_name(index)})"
        if ranks.several:
            raise UsageError(
                f"Device 'auto': PyTorch {torch.__version__} finds no CUDA device here for {ranks.local_size} processes.",
                remedy="device-cpu-shared",
            )
        if mps:
            return torch.device("mps"), " (Apple GPU)"
        return torch.device("cpu"), " (no GPU found)"
    kind, _, index_text = text.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index_text and (kind != "cuda" or not index_text.isdigit())):
        raise UsageError(f"Unknown device '{text}'.{did_you_mean(text, ('auto', 'cpu', 'cuda', 'cuda:0', 'mps'))}")
    if kind == "cuda":
        if not cuda:
            raise UsageError(
                f"Device '{text}': PyTorch {torch.__version__} finds no CUDA device here.", remedy="device-cpu"
            )
        first = int(index_text or 0)
        if first >= torch.cuda.device_count():
            present = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
            raise UsageError(f"Device '{text}' does not exist. Present: {present}.")
        index = _cuda_index(first, ranks)
        return torch.device("cuda", index), f" ({torch.cuda.get_device_name(index)})"
    if kind == "mps" and not mps:
        raise UsageError(f"Device 'mps': PyTorch {torch.__version__} finds no Apple GPU here.", remedy="device-cpu")
    if kind == "mps" and ranks.several:
        raise UsageError(
            f"Device 'mps': an Apple GPU can be used by one process only, not by {ranks.size}.", remedy="one-process"
        )
    return torch.device(kind), ""


def _cuda_index(first: int, ranks: Ranks) -> int:
    """Return the CUDA device of this local rank, counted from `first`; each process of this machine must have one."""
    present = torch.cuda.device_count()
    if first + ranks.local_size > present:
        raise UsageError(
            f"{ranks.local_size} processes need a CUDA device each, starting at cuda:{first}, but there are only {present}.",
            remedy="fewer-processes",
        )
    return first + ranks.local_rank


def _choose_dtype(device: torch.device, precision: str) -> tuple[torch.dtype, str]:
    if precision == "auto":
        if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bf16"
        return torch.float32, "fp32"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if dtype == torch.float16 and device.type == "cpu":
        raise UsageError("Precision 'fp16' works on GPUs only; on a CPU use fp32 or bf16.", remedy="precision-cpu")
    return dtype, precision
