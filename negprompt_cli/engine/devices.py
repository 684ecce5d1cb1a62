"""Which devices and which number format to compute with: decided here, once, with a reason that can be printed.

Leaves out: several machines, and sharding by process.
"""

from dataclasses import dataclass

import torch

from negprompt_cli.errors import UsageError, did_you_mean

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Compute:
    """Where and how to compute.

    `devices`: the first trains and scores, all of them encode images. `dtype`: format of the image encoder's arithmetic;
    text encoding and training are always float32, because context gradients are small. `reason`: one line for people.
    """

    devices: tuple[torch.device, ...]
    dtype: torch.dtype
    reason: str

    @property
    def device(self) -> torch.device:
        """The device that trains and scores."""
        return self.devices[0]


def choose_compute(device: str = "auto", *, gpus: int | None = None, precision: str = "auto") -> Compute:
    """Resolve `--device`, `--gpus` and `--precision` against the hardware present.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        gpus: how many CUDA devices encode images; only with a CUDA device.
        precision: auto, fp32, bf16 or fp16.

    Raises:
        UsageError: the device does not exist here, or the combination makes no sense.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"Unknown precision '{precision}'.{did_you_mean(precision, PRECISIONS)}")
    if gpus is not None and gpus < 1:
        raise UsageError(f"--gpus must be at least 1, not {gpus}.")
    first, why = _choose_device(device)
    devices = [first]
    if gpus is not None and gpus > 1:
        if first.type != "cuda":
            raise UsageError(f"--gpus {gpus} needs CUDA devices, but the device is {first} ({why}). Drop --gpus.")
        present = torch.cuda.device_count()
        start = first.index or 0
        if start + gpus > present:
            raise UsageError(f"--gpus {gpus} from {first} asks for more than the {present} CUDA devices present.")
        devices = [torch.device("cuda", start + i) for i in range(gpus)]
    dtype, how = _choose_dtype(first, precision)
    names = ", ".join(str(d) for d in devices)
    return Compute(tuple(devices), dtype, f"{names} ({why}), image encoder in {how}")


def _choose_device(text: str) -> tuple[torch.device, str]:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if text == "auto":
        if cuda:
            return torch.device("cuda", 0), f"auto: {torch.cuda.get_device_name(0)}"
        if mps:
            return torch.device("mps"), "auto: Apple GPU"
        return torch.device("cpu"), f"auto: no GPU found, {torch.get_num_threads()} threads"
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdigit())):
        raise UsageError(f"Unknown device '{text}'.{did_you_mean(text, ('auto', 'cpu', 'cuda', 'cuda:0', 'mps'))}")
    if kind == "cuda":
        if not cuda:
            raise UsageError(
                f"--device {text}: PyTorch {torch.__version__} finds no CUDA device here. Use --device cpu."
            )
        number = int(index or 0)
        if number >= torch.cuda.device_count():
            present = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
            raise UsageError(f"--device {text} does not exist; present: {present}.")
        return torch.device("cuda", number), f"asked for: {torch.cuda.get_device_name(number)}"
    if kind == "mps" and not mps:
        raise UsageError(f"--device mps: PyTorch {torch.__version__} finds no Apple GPU here. Use --device cpu.")
    return torch.device(kind), "asked for"


def _choose_dtype(device: torch.device, precision: str) -> tuple[torch.dtype, str]:
    if precision == "auto":
        if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bf16 (auto: the GPU has it)"
        return torch.float32, f"fp32 (auto on {device.type})"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if dtype == torch.float16 and device.type == "cpu":
        raise UsageError("--precision fp16 is for GPUs; on a CPU use fp32 or bf16.")
    return dtype, f"{precision} (asked for)"
