"""Calls and tensors between the processes of one job (torch.distributed).

Rank 0 runs the command as it would without other processes: it reads, decides, prints and writes. The other ranks wait for
its calls, compute on their devices, and answer. So only rank 0 runs the training loop and writes files and messages. The
other ranks need only the images and the model, at the same paths as on the first machine. Calls and answers are JSON
documents with tensors (safetensors), sent over gloo. Tensors that all ranks exchange go over NCCL if the devices are CUDA
devices. Results are added in rank order, so the sum does not depend on timing.

`sharded_prompts` and `steps.shared.rank_worker` define the calls. torchrun starts the processes.
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
"""Longest time that the processes of a job wait for each other at the start."""
ANSWER_TIME = timedelta(hours=1)
"""Longest time for one answer, such as downloading weights or encoding a batch. A dead rank is noticed at once."""
IDLE_TIME = timedelta(days=7)
"""Longest time that a rank waits for its next call: rank 0 may be reading a list that is still being written."""

_DOCUMENT = "document"


class LostRank(NegPromptError):
    """Another process of the job has ended or does not answer."""


@dataclass(frozen=True)
class Message:
    """A JSON document and named tensors on the CPU."""

    document: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shared:
    """An object of which every rank of `team` has a copy, registered there under `number`."""

    team: "Team"
    number: int


class Team:
    """The processes of this job. Every process creates its own `Team`, at about the same time.

    `device` is the device of the tensors that `broadcast`, `scatter` and `gather` exchange; see `use`.

    Args:
        ranks: this process among those of the job, at least two.

    Raises:
        LostRank: not all processes connect within `ASSEMBLY_TIME`.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.device = ranks, torch.device("cpu")
        self._numbers = 0
        self._dropped: list[int] = []
        self._posted: list[Any] = []
        self._settled = True
        self._broken = False
        with self._noticing("the other processes at the start"):
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
        """The backend that exchanges tensors: gloo or nccl."""
        return str(dist.get_backend(self._tensors))

    def use(self, device: torch.device) -> None:
        """Exchange tensors on this device from now on; every rank must call it, with a device of the same kind."""
        if device.type == "cuda" and self.device != device:
            torch.cuda.set_device(device)
            with self._noticing("the other processes"):
                self._tensors = dist.new_group(backend="nccl", timeout=ANSWER_TIME)
        self.device = device

    # Methods for rank 0.

    def number(self) -> int:
        """Return a new number for an object that every rank has."""
        self._numbers += 1
        return self._numbers

    def drop(self, number: int) -> None:
        """Tell the other ranks, with the next call, to delete an object; safe to call from the garbage collector."""
        self._dropped.append(number)

    def call(
        self, name: str, document: dict[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Send a call to all other ranks. Call `answers` next, unless the call has no answer.

        Raises:
            LostRank: a rank is gone.
        """
        dropped, self._dropped = self._dropped, []
        data = _pack(Message({"call": name, "drop": dropped, **(document or {})}, dict(tensors or {})))
        self._settled = False
        with self._noticing("the other processes"):
            dist.broadcast(torch.tensor([len(data)]), 0, group=self._calls)
            dist.broadcast(data, 0, group=self._calls)

    def answers(self) -> list[Message]:
        """Return the answer of each other rank, in rank order.

        Raises:
            UsageError, NegPromptError, torch.OutOfMemoryError: the error of the lowest rank that failed.
            LostRank: a rank is gone.
        """
        messages = [self.receive(rank) for rank in self.others]
        self.settle()
        for rank, message in zip(self.others, messages, strict=True):
            raise_failure(message, rank)
        return messages

    def settle(self) -> None:
        """Record that every rank is waiting for a call again."""
        self._settled = True

    def catch_up(self) -> None:
        """Receive and discard the answers of the other ranks after rank 0 itself failed; only its error is reported."""
        with suppress(NegPromptError, torch.OutOfMemoryError):
            self.answers()

    def dismiss(self) -> None:
        """Tell the other ranks to exit. If they are not waiting for a call, they notice that rank 0 is gone instead."""
        try:
            self._signs.set("over", "yes")
            if self._settled and not self._broken:
                self.call("leave")
                dist.destroy_process_group()
        except (LostRank, RuntimeError):
            # The other ranks are already gone.
            return

    # Methods for the other ranks.

    def receive_call(self) -> Message:
        """Wait for the next call of rank 0 and return it.

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
        """Whether rank 0 has ended regularly. If it is gone and this is False, it has crashed."""
        try:
            return bool(self._signs.check(["over"]))
        except RuntimeError:
            return False

    # Methods for all ranks.

    def send(self, message: Message, rank: int) -> None:
        """Send a message to `rank`, which must call `receive`.

        Raises:
            LostRank: that rank is gone.
        """
        self.post(message, rank)
        with self._noticing(f"rank {rank}"):
            for work in self._posted:
                work.wait()
        self._posted.clear()

    def post(self, message: Message, rank: int) -> None:
        """Send a message without waiting until `rank` calls `receive`; the next `send` waits for it too.

        Raises:
            LostRank: that rank is gone.
        """
        data = _pack(message)
        with self._noticing(f"rank {rank}"):
            self._posted += [dist.isend(torch.tensor([len(data)]), rank), dist.isend(data, rank)]

    def receive(self, rank: int) -> Message:
        """Wait for a message from `rank` and return it.

        Raises:
            LostRank: that rank is gone.
        """
        length = torch.zeros(1, dtype=torch.int64)
        with self._noticing(f"rank {rank}"):
            dist.recv(length, rank)
            data = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(data, rank)
        return _unpack(data)

    def stop(self, number: int) -> None:
        """On rank 0: signal that the work with this number is to stop."""
        with self._noticing("the other processes"):
            self._signs.set(f"stop/{number}", "yes")

    def stopped(self, number: int) -> bool:
        """Whether rank 0 has signalled that the work with this number is to stop."""
        with self._noticing("rank 0"):
            return bool(self._signs.check([f"stop/{number}"]))

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Copy rank 0's tensor to every rank; the other ranks pass a tensor of its shape, which is overwritten."""
        with self._noticing("the other processes"):
            dist.broadcast(tensor, 0, group=self._tensors)
        return tensor

    def scatter(self, parts: list[Tensor] | None, shape: tuple[int, ...]) -> Tensor:
        """Send each rank one of rank 0's parts, all of shape `shape`, and return this rank's part."""
        mine = torch.empty(shape, device=self.device)
        with self._noticing("the other processes"):
            dist.scatter(mine, parts, 0, group=self._tensors)
        return mine

    def gather(self, part: Tensor) -> list[Tensor]:
        """Return on rank 0 the parts of all ranks in rank order, elsewhere an empty list. All parts have the same shape."""
        parts = [torch.empty_like(part) for _ in range(self.ranks.size)] if self.ranks.rank == 0 else []
        with self._noticing("the other processes"):
            dist.gather(part.contiguous(), parts or None, 0, group=self._tensors)
        return parts

    @contextmanager
    def _noticing(self, whom: str) -> Iterator[None]:
        if self._broken:
            raise LostRank("An earlier failure interrupted the exchange between the processes. Run the command again.")
        # If anything interrupts an exchange (Ctrl-C too), the ranks wait for different messages and cannot continue.
        self._broken = True
        try:
            yield
            self._broken = False
        except RuntimeError as error:
            # gloo's message has a source location, the reason, and more details. Only the reason is useful.
            lines = re.sub(r"^\[[^]]*\] *", "", str(error).strip()).splitlines() or [type(error).__name__]
            raise LostRank(
                f"Lost the connection to {whom} of the job's {self.ranks.size} processes ({lines[0].split('. ')[0]}). If a "
                "process crashed, its error is above or in the log of its machine. Correct it and run the command again."
            ) from error


_current: Team | None = None


def current_team() -> Team | None:
    """Return the team of this process, or None if it is the only process."""
    return _current


def assemble(ranks: Ranks) -> Team:
    """Create the team of this process; call it once.

    Raises:
        LostRank: not all processes connect within `ASSEMBLY_TIME`.
    """
    global _current
    _current = Team(ranks)
    return _current


def failure(error: Exception) -> Message:
    """Turn an error into an answer for rank 0."""
    kind = (
        "memory" if isinstance(error, torch.OutOfMemoryError) else "usage" if isinstance(error, UsageError) else "run"
    )
    return Message({"failure": kind, "text": str(error), "host": socket.gethostname()})


def raise_failure(message: Message, rank: int) -> None:
    """Raise the error that an answer of `rank` reports, if there is one.

    Raises:
        UsageError, NegPromptError, torch.OutOfMemoryError: the error of that rank.
    """
    kind = message.document.get("failure")
    if kind is None:
        return
    text = f"rank {rank} ({message.document['host']}): {message.document['text']}"
    if kind == "memory":
        raise torch.OutOfMemoryError(text)
    raise UsageError(text) if kind == "usage" else NegPromptError(text)


def _pack(message: Message) -> Tensor:
    """Serialise a message as (n,) uint8."""
    text = torch.frombuffer(bytearray(json.dumps(message.document).encode("ascii")), dtype=torch.uint8)
    tensors = {f"tensor/{name}": tensor.cpu().contiguous() for name, tensor in message.tensors.items()}
    return torch.frombuffer(bytearray(save({_DOCUMENT: text, **tensors})), dtype=torch.uint8)


def _unpack(data: Tensor) -> Message:
    tensors = load(data.numpy().tobytes())
    document = json.loads(tensors.pop(_DOCUMENT).numpy().tobytes())
    return Message(document, {name.removeprefix("tensor/"): tensor for name, tensor in tensors.items()})
