"""The processes of one job, and how calls and tensors pass between them (torch.distributed).

Rank 0 runs the command as it would alone: it reads, decides, prints and writes. The other ranks wait for its calls, lend it
their devices, and answer. So there is one loop, one set of files and one voice, whatever the number of processes, and a
rank needs nothing but the images and the model to be where they are on the first machine. Calls and answers are JSON with
tensors beside it (safetensors), over gloo; tensors that many ranks share go over NCCL where the devices are CUDA's. The sum
of what the ranks made is taken in the order of ranks, so it does not depend on who came first.

Leaves out: what is called for (see `sharded_prompts`, `steps.shared.rank_worker`), and starting the processes.
"""

import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from negprompt_cli.engine.parallel.ranks import Ranks
from negprompt_cli.errors import NegPromptError, UsageError

ASSEMBLY_TIME = timedelta(minutes=10)
"""Longest that the processes of a job wait for each other at the start."""
ANSWER_TIME = timedelta(hours=1)
"""Longest that one answer may take: fetching a model's weights, encoding a batch. A rank that dies is noticed at once."""
IDLE_TIME = timedelta(days=7)
"""Longest that a rank waits for its next call: rank 0 may be reading a list that somebody is still writing."""

_DOCUMENT = "document"


class LostRank(NegPromptError):
    """Another process of the job is gone, or does not answer."""


@dataclass(frozen=True)
class Message:
    """A JSON document, and tensors on the CPU by name."""

    document: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shared:
    """A thing that every rank of `team` has one of, known there by `number`."""

    team: "Team"
    number: int


class Team:
    """The processes of this job; made by each of them at about the same time.

    `device` is where tensors are that `broadcast`, `scatter` and `gather` pass on; see `use`.

    Args:
        ranks: this process among them, several.

    Raises:
        LostRank: they do not all come within `ASSEMBLY_TIME`.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.device = ranks, torch.device("cpu")
        self._numbers = 0
        self._dropped: list[int] = []
        self._settled = True
        self._broken = False
        with self._noticing("the others, at the start"):
            store, rank, size = next(rendezvous("env://", timeout=ASSEMBLY_TIME))
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=ANSWER_TIME)
            self._calls: Any = dist.new_group(backend="gloo", timeout=IDLE_TIME)
            self._signs: Any = PrefixStore("negprompt", store)
        self._tensors: Any = dist.group.WORLD

    @property
    def others(self) -> range:
        """The ranks that rank 0 calls."""
        return range(1, self.ranks.size)

    @property
    def backend(self) -> str:
        """What tensors go over: gloo or nccl."""
        return str(dist.get_backend(self._tensors))

    def use(self, device: torch.device) -> None:
        """Pass tensors on from this device of this rank; every rank has to say it, with a device of the same kind."""
        if device.type == "cuda" and self.device != device:
            torch.cuda.set_device(device)
            with self._noticing("the others"):
                self._tensors = dist.new_group(backend="nccl", timeout=ANSWER_TIME)
        self.device = device

    # What rank 0 does.

    def number(self) -> int:
        """A new number for a thing that every rank has one of."""
        self._numbers += 1
        return self._numbers

    def drop(self, number: int) -> None:
        """Let the others forget a thing at the next call; safe at any moment, so that the garbage collector may say it."""
        self._dropped.append(number)

    def call(
        self, name: str, document: dict[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Call all other ranks; unless the call is one without an answer, `answers` has to follow."""
        dropped, self._dropped = self._dropped, []
        data = _pack(Message({"call": name, "drop": dropped, **(document or {})}, dict(tensors or {})))
        self._settled = False
        with self._noticing("the others"):
            dist.broadcast(torch.tensor([len(data)]), 0, group=self._calls)
            dist.broadcast(data, 0, group=self._calls)

    def answers(self) -> list[Message]:
        """The answer of each other rank, in their order.

        Raises:
            UsageError, NegPromptError, torch.OutOfMemoryError: what the first rank that failed, failed with.
            LostRank: a rank is gone.
        """
        messages = [self.receive(rank) for rank in self.others]
        self.settle()
        for rank, message in zip(self.others, messages, strict=True):
            raise_failure(message, rank)
        return messages

    def settle(self) -> None:
        """Say that every rank waits for a call again."""
        self._settled = True

    def catch_up(self) -> None:
        """Take the answers of the others after a failure of one's own, which alone is to be told."""
        with suppress(NegPromptError, torch.OutOfMemoryError):
            self.answers()

    def dismiss(self) -> None:
        """Send the other ranks home; without a word where they are not listening, since they notice that rank 0 is gone."""
        try:
            self._signs.set("over", "yes")
            if self._settled and not self._broken:
                self.call("leave")
                dist.destroy_process_group()
        except (LostRank, RuntimeError):
            # There is nobody left to tell.
            return

    # What the other ranks do.

    def heard(self) -> Message:
        """Wait for the next call of rank 0.

        Raises:
            LostRank: rank 0 is gone.
        """
        length = torch.zeros(1, dtype=torch.int64)
        with self._noticing("rank 0"):
            dist.broadcast(length, 0, group=self._calls)
            data = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(data, 0, group=self._calls)
        return _unpack(data)

    @property
    def over(self) -> bool:
        """Whether rank 0 has ended in its own way; if not, and it is gone, it has died."""
        try:
            return bool(self._signs.check(["over"]))
        except RuntimeError:
            return False

    # What any rank does.

    def send(self, message: Message, rank: int) -> None:
        """Send a message, which `rank` has to be waiting for or to come to."""
        data = _pack(message)
        with self._noticing(f"rank {rank}"):
            dist.send(torch.tensor([len(data)]), rank)
            dist.send(data, rank)

    def receive(self, rank: int) -> Message:
        """Wait for a message of `rank`.

        Raises:
            LostRank: it is gone.
        """
        length = torch.zeros(1, dtype=torch.int64)
        with self._noticing(f"rank {rank}"):
            dist.recv(length, rank)
            data = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(data, rank)
        return _unpack(data)

    def stop(self, number: int) -> None:
        """Rank 0: put up the sign that a long piece of work is not wanted any more."""
        with self._noticing("the others"):
            self._signs.set(f"stop/{number}", "yes")

    def stopped(self, number: int) -> bool:
        """Whether that sign is up."""
        with self._noticing("rank 0"):
            return bool(self._signs.check([f"stop/{number}"]))

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor on every rank; the others give one of its shape to fill."""
        with self._noticing("the others"):
            dist.broadcast(tensor, 0, group=self._tensors)
        return tensor

    def scatter(self, parts: list[Tensor] | None, shape: tuple[int, ...]) -> Tensor:
        """One of rank 0's parts, all of one shape, for each rank."""
        mine = torch.empty(shape, device=self.device)
        with self._noticing("the others"):
            dist.scatter(mine, parts, 0, group=self._tensors)
        return mine

    def gather(self, part: Tensor) -> list[Tensor]:
        """On rank 0 the parts of all ranks, in their order; elsewhere nothing. All parts are of one shape."""
        parts = [torch.empty_like(part) for _ in range(self.ranks.size)] if self.ranks.rank == 0 else []
        with self._noticing("the others"):
            dist.gather(part.contiguous(), parts or None, 0, group=self._tensors)
        return parts

    @contextmanager
    def _noticing(self, whom: str) -> Iterator[None]:
        if self._broken:
            raise LostRank("The processes of the job do not understand each other any more. Run again.")
        # Whatever ends an exchange half way, Ctrl-C too, leaves the ranks waiting for different things.
        self._broken = True
        try:
            yield
            self._broken = False
        except RuntimeError as error:
            # gloo says where in its source it failed, then why, then more than anybody wants to know.
            said = re.sub(r"^\[[^]]*\] *", "", str(error).strip()).splitlines() or [type(error).__name__]
            raise LostRank(
                f"Lost {whom} of the job's {self.ranks.size} processes ({said[0].split('. ')[0]}). If a process died, what "
                "it said is above or in the log of its machine; mend that and run again."
            ) from error


_current: Team | None = None


def current_team() -> Team | None:
    """The team this process belongs to, or None where it is alone."""
    return _current


def assemble(ranks: Ranks) -> Team:
    """Make the team of this process, once."""
    global _current
    _current = Team(ranks)
    return _current


def failure(error: Exception) -> Message:
    """An error as an answer."""
    kind = (
        "memory" if isinstance(error, torch.OutOfMemoryError) else "usage" if isinstance(error, UsageError) else "run"
    )
    return Message({"failure": kind, "text": str(error), "host": socket.gethostname()})


def raise_failure(message: Message, rank: int) -> None:
    """Raise the error that an answer of `rank` reports, if it reports one."""
    kind = message.document.get("failure")
    if kind is None:
        return
    text = f"rank {rank} ({message.document['host']}): {message.document['text']}"
    if kind == "memory":
        raise torch.OutOfMemoryError(text)
    raise UsageError(text) if kind == "usage" else NegPromptError(text)


def _pack(message: Message) -> Tensor:
    """A message as (n,) uint8."""
    text = torch.frombuffer(bytearray(json.dumps(message.document).encode("ascii")), dtype=torch.uint8)
    tensors = {f"tensor/{name}": tensor.cpu().contiguous() for name, tensor in message.tensors.items()}
    return torch.frombuffer(bytearray(save({_DOCUMENT: text, **tensors})), dtype=torch.uint8)


def _unpack(data: Tensor) -> Message:
    tensors = load(data.numpy().tobytes())
    document = json.loads(tensors.pop(_DOCUMENT).numpy().tobytes())
    return Message(document, {name.removeprefix("tensor/"): tensor for name, tensor in tensors.items()})
