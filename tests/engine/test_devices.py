"""Devices and precision: every wish is granted with a reason or refused with the fix, on any hardware."""

from types import SimpleNamespace

import pytest
import torch

from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.engine.parallel.ranks import ALONE, Ranks, ranks_from_environment
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
    assert compute.device == torch.device("cuda", 0)
    assert compute.dtype == torch.bfloat16
    assert compute.reason == "cuda:0 (Pretend GPU 0), image encoder in bf16"


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


def test_each_process_takes_the_device_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=4)
    # The second process of three on the second of two machines.
    ranks = Ranks(rank=4, size=6, local_rank=1, local_size=3)
    assert choose_compute(ranks=ranks).device == torch.device("cuda", 1)
    assert choose_compute("cuda:1", ranks=ranks).device == torch.device("cuda", 2)
    assert choose_compute("cpu", ranks=ranks).device == torch.device("cpu")
    with pytest.raises(
        UsageError, match="3 processes need a CUDA device each, starting at cuda:2, but there are only 4"
    ):
        choose_compute("cuda:2", ranks=ranks)


def test_several_processes_need_devices_or_the_cpu_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(rank=0, size=2, local_rank=0, local_size=2)
    pretend(monkeypatch)
    with pytest.raises(UsageError, match="finds no CUDA device here for 2 processes"):
        choose_compute(ranks=ranks)
    pretend(monkeypatch, mps=True)
    with pytest.raises(UsageError, match="an Apple GPU can be used by one process only, not by 2"):
        choose_compute("mps", ranks=ranks)


def test_only_torchrun_says_what_rank_this_is() -> None:
    cluster = {"RANK": "4", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}
    assert ranks_from_environment(cluster) == ALONE
    assert not ALONE.several
    assert ranks_from_environment({**cluster, "TORCHELASTIC_RUN_ID": "none"}) == Ranks(4, 6, 1, 3)


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("gpu", "auto", r"Unknown device 'gpu'\..*cpu"),
        ("cud", "auto", "Did you mean 'cuda'"),
        ("cuda:x", "auto", "Unknown device 'cuda:x'"),
        ("cpu:0", "auto", "Unknown device 'cpu:0'"),
        ("cuda", "auto", "finds no CUDA device here"),
        ("mps", "auto", "finds no Apple GPU"),
        ("cpu", "fp16", "on a CPU use fp32 or bf16"),
        ("cpu", "bf61", "Unknown precision 'bf61'. Did you mean 'bf16'"),
    ],
)
def test_what_cannot_be_is_refused(device: str, precision: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(UsageError, match=message):
        choose_compute(device, precision=precision)


def test_a_missing_gpu_index_names_those_present(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2)
    with pytest.raises(UsageError, match=r"'cuda:7' does not exist\. Present: cuda:0, cuda:1"):
        choose_compute("cuda:7")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_asked_for_is_taken(precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    compute = choose_compute("cpu", precision=precision)
    assert compute.dtype == dtype
    assert compute.reason == f"cpu, image encoder in {precision}"
