"""What the tests of several processes share: jobs that run in every rank, and a way to run them.

Ranks are forked processes; torchrun itself is for the tests of the command line.
"""

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from processes import SERVER
from scoring_world import bench_of, small_clip, write_images

from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.shared_model import agree_on_compute, load_shared
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.parallel.rank_calls import Team, assemble
from negprompt_cli.engine.parallel.ranks import ranks_from_environment
from negprompt_cli.steps.shared.rank_worker import serve
from negprompt_cli.steps.shared.workbench import Workbench

Task = Callable[[Clip, Any], Any]
"""What rank 0 does with a model that every rank has: a function of a module."""

SECONDS = 60
"""No job of the tests takes as long; one that does hangs."""


def free_port() -> int:
    """A TCP port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def everywhere(size: int, folder: Path, task: Task, given: Any = None) -> Any:
    """Do a task in `size` processes with the package's small model, unpacked in `folder`; what it returned on rank 0."""
    small_clip(folder / "small")
    port = free_port()
    answer, there = SERVER.Pipe(duplex=False)
    ranks = [SERVER.Process(target=_rank, args=(r, size, port, folder, task, given, there)) for r in range(size)]
    for process in ranks:
        process.start()
    there.close()
    try:
        assert answer.poll(SECONDS), "no answer in time"
        failed, result = answer.recv()
        assert not failed, result
        for process in ranks:
            process.join(SECONDS)
        assert [process.exitcode for process in ranks] == [0] * size
        return result
    finally:
        for process in ranks:
            process.kill()


def _rank(rank: int, size: int, port: int, folder: Path, task: Task, given: Any, there: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    team = assemble(ranks_from_environment())
    if rank:
        serve(team)
        return
    try:
        there.send((False, task(_shared_clip(team, folder), given)))
    except BaseException:
        there.send((True, traceback.format_exc()))
    finally:
        team.dismiss()


def _shared_clip(team: Team, folder: Path) -> Clip:
    compute, _ = agree_on_compute(team, "cpu", "fp32")
    return load_shared(team, ModelConfig(name=f"local-dir:{folder / 'small'}", pretrained=None), compute)


def bench(clip: Clip) -> Workbench:
    """A workbench around the model, without the cache."""
    made = bench_of(clip)
    compute = made.config.compute.model_copy(update={"cache": False, "image_batch": 3, "memory": "256MiB"})
    return Workbench(made.config.model_copy(update={"compute": compute}), made.progress, clip=clip)


def draw(folder: Path, counts: dict[str, int]) -> Path:
    """A folder of class folders with so many images each."""
    for seed, (name, count) in enumerate(counts.items()):
        write_images(folder / name, count, seed=seed)
    return folder
