"""Devices and precision: every wish is granted with a reason or refused with the fix, on any hardware."""

from types import SimpleNamespace

import pytest
import torch

from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.errors import UsageError


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, bf16: bool = True, mps: bool = False) -> None:
    """Make PyTorch report this hardware."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Pretend GPU {index}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: mps))


def test_auto_takes_the_first_gpu_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2)
    compute = choose_compute()
    assert compute.devices == (torch.device("cuda", 0),)
    assert compute.dtype == torch.bfloat16
    assert compute.reason == "cuda:0 (auto: Pretend GPU 0), image encoder in bf16 (auto: the GPU has it)"


def test_auto_stays_in_fp32_where_bf16_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=1, bf16=False)
    assert choose_compute().dtype == torch.float32


def test_auto_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    compute = choose_compute()
    assert (compute.device, compute.dtype) == (torch.device("cpu"), torch.float32)
    assert "no GPU found" in compute.reason
    pretend(monkeypatch, mps=True)
    assert choose_compute().device == torch.device("mps")


def test_gpus_are_counted_from_the_device_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=4)
    assert [d.index for d in choose_compute("cuda:1", gpus=3).devices] == [1, 2, 3]
    assert [d.index for d in choose_compute(gpus=2).devices] == [0, 1]
    assert len(choose_compute("cuda", gpus=1).devices) == 1
    with pytest.raises(UsageError, match="more than the 4 CUDA devices present"):
        choose_compute("cuda:2", gpus=3)


@pytest.mark.parametrize(
    ("device", "gpus", "precision", "message"),
    [
        ("gpu", None, "auto", r"Unknown device 'gpu'\..*cpu"),
        ("cud", None, "auto", "Did you mean 'cuda'"),
        ("cuda:x", None, "auto", "Unknown device 'cuda:x'"),
        ("cpu:0", None, "auto", "Unknown device 'cpu:0'"),
        ("cuda", None, "auto", "finds no CUDA device here. Use --device cpu"),
        ("mps", None, "auto", "finds no Apple GPU"),
        ("cpu", 2, "auto", "--gpus 2 needs CUDA devices, but the device is cpu"),
        ("cpu", 0, "auto", "--gpus must be at least 1"),
        ("cpu", None, "fp16", "on a CPU use fp32 or bf16"),
        ("cpu", None, "bf61", "Unknown precision 'bf61'. Did you mean 'bf16'"),
    ],
)
def test_what_cannot_be_is_refused(
    device: str, gpus: int | None, precision: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    with pytest.raises(UsageError, match=message):
        choose_compute(device, gpus=gpus, precision=precision)


def test_a_missing_gpu_index_names_those_present(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2)
    with pytest.raises(UsageError, match=r"cuda:7 does not exist; present: cuda:0, cuda:1"):
        choose_compute("cuda:7")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_asked_for_is_taken(precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    compute = choose_compute("cpu", precision=precision)
    assert compute.dtype == dtype
    assert compute.reason == f"cpu (asked for), image encoder in {precision} (asked for)"
