"""A prompt encoder that distributes classes among the processes of a job.

In the forward pass each rank receives the contexts from rank 0, encodes its classes, keeps the autograd graph, and returns
the features. In the backward pass it receives the gradients of the features and returns the gradients of the contexts,
which rank 0 adds. So activations are spread over all devices: with eight devices, 21,000 classes take as much memory on
each as 2,600 classes take on a single one.

The ranks share the same chunks of classes that one process would encode, and rank 0 adds gradients in the order in which
autograd would add them. If all devices compute alike, the result is therefore bit for bit that of one process. If all
classes fit one chunk, rank 0 encodes them alone, because sending them would take longer than encoding them.

Rank 0 alone computes the loss and the optimiser's step.
"""

import copy
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from negprompt_cli.engine.parallel.rank_calls import Message, Shared, Team
from negprompt_cli.engine.prompt_learners.prompt_encoder import PromptEncoder
from negprompt_cli.engine.prompt_learners.tokens import PromptTokens


class ShardedPromptEncoder:
    """Rank 0's encoder of K prompts on all ranks, used like a `PromptEncoder`.

    Classes are distributed at the first pass with gradients. Rank 0 alone encodes what comes before, such as anchors.

    Args:
        model: the model, shared by every rank.
        tokens: the K prompts.
        make: function (tokens, budget=, notice=) that makes an encoder on this rank.
        budget: bytes the activations of one call may take on each rank.
        notice: called with one line when a rank ran out of memory and made its chunks smaller.
    """

    def __init__(
        self,
        model: Shared,
        tokens: PromptTokens,
        make: Callable[..., PromptEncoder],
        *,
        budget: int,
        notice: Callable[[str], None] | None,
    ) -> None:
        make = partial(make, tokens, budget=budget)
        self._alone = make(notice=notice)
        self._whole = _Whole(model, {"tokens": asdict(tokens), "budget": budget}, make, notice)
        self._classes: Sequence[int] = range(len(tokens))
        self._parts: _Parts | None = None

    @property
    def tokens(self) -> PromptTokens:
        """The prompts this encoder was built for."""
        return self._alone.tokens

    def subset(self, classes: Sequence[int]) -> "ShardedPromptEncoder":
        """Return an encoder of n of the K classes, in the given order; they are distributed anew."""
        part = copy.copy(self)
        part._alone = self._alone.subset(classes)
        part._classes = [self._classes[c] for c in classes]
        part._parts = None
        return part

    def __call__(self, contexts: Tensor) -> Tensor:
        """Encode all classes with C contexts: (C, M, D) or (C, K, M, D) to (C, K, F), as `PromptEncoder` does.

        Raises:
            LostRank: another process is gone.
            torch.OutOfMemoryError: a device cannot hold one class's prompts.
        """
        learning = torch.is_grad_enabled() and contexts.requires_grad
        if learning and self._parts is None:
            chunks = self._alone.chunked(tuple(contexts.shape))
            self._parts = self._whole.share_out(self._classes, chunks) if len(chunks) > 1 else None
        if self._parts is None:
            return self._alone(contexts)
        if learning:
            features: Tensor = _Everywhere.apply(contexts, self._parts)
            return features
        return self._parts.forward(contexts, learning=False)

    def shrink(self) -> None:
        """Halve the budget of every rank that can.

        Raises:
            torch.OutOfMemoryError: no rank can.
        """
        if self._parts:
            self._parts.shrink()
        else:
            self._alone.shrink()


class _Whole:
    """The encoder of all classes on every rank. It is made at the first call; each rank then uses a subset of it."""

    def __init__(
        self,
        model: Shared,
        asked: dict[str, Any],
        make: Callable[..., PromptEncoder],
        notice: Callable[[str], None] | None,
    ) -> None:
        self._model, self._asked, self._make, self._notice = model, asked, make, notice
        self._everywhere: tuple[int, PromptShard] | None = None

    def share_out(self, classes: Sequence[int], chunks: Sequence[Sequence[int]]) -> "_Parts":
        """Distribute some of the classes; `chunks` lists, by index into `classes`, the classes encoded together."""
        team = self._model.team
        number, whole = self._made()
        shards = deal(chunks, team.ranks.size)
        theirs = [[classes[i] for i in shard] for shard in shards]
        part = Shared(team, team.number())
        team.call("prompts.subset", {"number": part.number, "of": number, "classes": theirs})
        own = whole.subset(theirs[0])
        team.answers()
        return _Parts(part, own, shards, self._notice)

    def _made(self) -> tuple[int, "PromptShard"]:
        """Return the number of the encoder of all classes on every rank, and rank 0's own encoder."""
        if self._everywhere is None:
            team = self._model.team
            number = team.number()
            team.call("prompts.new", {"number": number, "model": self._model.number, **self._asked})
            notes: list[str] = []
            own = PromptShard(self._make(notice=notes.append), notes)
            team.answers()
            weakref.finalize(self, team.drop, number).atexit = False
            self._everywhere = (number, own)
        return self._everywhere


class _Parts:
    """The distributed classes, as rank 0 uses them: calls to the other ranks, and its own shard.

    Args:
        shared: the team, and the number of each rank's `PromptShard`.
        own: rank 0's shard.
        shards: the indices of each rank's classes.
        notice: see `ShardedPromptEncoder`.
    """

    def __init__(
        self, shared: Shared, own: "PromptShard", shards: list[list[int]], notice: Callable[[str], None] | None
    ) -> None:
        self._number, self._team, self._own, self._shards = shared.number, shared.team, own, shards
        self._notice, self._width = notice, 0
        self._most = max(map(len, shards))
        self._chunks: list[int] = []
        self.passes = 0
        weakref.finalize(self, shared.team.drop, shared.number).atexit = False

    def shrink(self) -> None:
        """Halve the budget of every rank that can.

        Raises:
            torch.OutOfMemoryError: no rank can.
        """
        self._team.call("prompts.shrink", {"number": self._number})
        shrunk = self._own.shrink()
        answers = self._team.answers()
        if not shrunk and not any(answer.document["shrunk"] for answer in answers):
            raise torch.OutOfMemoryError("the prompts of a single class do not fit into the devices' memory")

    def forward(self, contexts: Tensor, *, learning: bool) -> Tensor:
        """Return the features (C, K, F) of all ranks; `learning` keeps the autograd graph for `backward`."""
        self.passes += 1
        shape = self._part_shape(contexts)
        self._team.call("prompts.forward", {"number": self._number, "learning": learning, "shape": list(shape)})
        if contexts.dim() == 3:
            mine = self._team.broadcast(contexts.contiguous())
        else:
            mine = self._team.scatter([_padded(contexts[:, shard], shape) for shard in self._shards], shape)
        self._together(lambda: self._own.forward(mine, learning=learning))
        return self._in_class_order(self._collect((len(contexts), self._most, self._width)))

    def backward(self, gradient: Tensor, contexts: Tensor) -> Tensor:
        """Return the gradient of the contexts, given that of the features (C, K, F) of the last forward pass."""
        shape = (len(gradient), self._most, gradient.shape[-1])
        self._team.call("prompts.backward", {"number": self._number, "shape": list(shape)})
        mine = self._team.scatter([_padded(gradient[:, shard], shape) for shard in self._shards], shape)
        self._together(lambda: self._own.backward(mine))
        if contexts.dim() == 4:
            return self._in_class_order(self._collect(self._part_shape(contexts)))
        parts = self._collect((len(contexts), max(self._chunks), *contexts.shape[1:]))
        # The reverse of the order of `deal`: autograd adds gradients from the last chunk to the first.
        dealt = sorted((place, rank) for rank, count in enumerate(self._chunks) for place in range(count))
        total = torch.zeros_like(contexts)
        for place, rank in reversed(dealt):
            total = total + parts[rank][:, place]
        return total

    def _together(self, own: Callable[[], None]) -> None:
        """Run this rank's part while the others run theirs; their answers are received even if this rank fails."""
        try:
            own()
        except BaseException:
            self._team.catch_up()
            raise
        answers = [answer.document for answer in self._team.answers()]
        self._width = max(self._own.width, *(answer["width"] for answer in answers))
        self._chunks = [self._own.chunks, *(answer["chunks"] for answer in answers)]
        for rank, lines in enumerate([self._own.take_notes(), *(answer["notes"] for answer in answers)]):
            for line in lines:
                if self._notice:
                    self._notice(f"rank {rank}: {line}")

    def _collect(self, shape: tuple[int, ...]) -> list[Tensor]:
        """Return the result of each rank's last pass, padded to `shape`."""
        self._team.call("prompts.collect", {"number": self._number, "shape": list(shape)})
        parts = self._team.gather(_padded(self._own.made, shape))
        self._team.settle()
        return parts

    def _in_class_order(self, parts: list[Tensor]) -> Tensor:
        """Join the padded parts (C, n or more, ...) of all ranks in the original order of classes."""
        whole = torch.cat([part[:, : len(shard)] for part, shard in zip(parts, self._shards, strict=True)], dim=1)
        places = torch.tensor([c for shard in self._shards for c in shard], device=whole.device)
        return whole.index_select(1, torch.argsort(places))

    def _part_shape(self, contexts: Tensor) -> tuple[int, ...]:
        """Return the shape of a rank's part of `contexts`: all of it, or the contexts of its classes, padded."""
        if contexts.dim() == 3:
            return tuple(contexts.shape)
        return (len(contexts), self._most, *contexts.shape[2:])


class _Everywhere(torch.autograd.Function):
    """The autograd function from contexts to features, computed by all ranks."""

    @staticmethod
    def forward(ctx: Any, contexts: Tensor, parts: _Parts) -> Tensor:
        features = parts.forward(contexts.detach(), learning=True)
        ctx.parts, ctx.number = parts, parts.passes
        ctx.save_for_backward(contexts)
        return features

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.number != ctx.parts.passes:
            raise RuntimeError("the backward pass must come before the next forward pass")
        (contexts,) = ctx.saved_tensors
        return ctx.parts.backward(gradient, contexts), None


class PromptShard:
    """One rank's n classes: computes their features and the gradients, and keeps the autograd graph of the last pass.

    `made` is the result of the last pass: features (C, n, F), or gradients of the contexts. These are (C, chunks, M, D) for
    shared contexts, one for each chunk, and (C, n, M, D) for class-specific contexts. `width` is F; it is 0 before the
    first pass and without classes.

    Args:
        encoder: the encoder of this rank's n classes; None if n is 0.
        notes: list that collects the encoder's notices.
    """

    def __init__(self, encoder: PromptEncoder | None, notes: list[str]) -> None:
        self._encoder, self._notes = encoder, notes
        self._leaves: list[Tensor] = []
        self._features: Tensor | None = None
        self.made = torch.empty(0)
        self.width = 0

    @property
    def chunks(self) -> int:
        """The number of chunks in the last pass with gradients."""
        return len(self._leaves)

    def forward(self, contexts: Tensor, *, learning: bool) -> None:
        """Compute features (C, n, F) of this rank's classes from contexts (C, M, D) or padded (C, n or more, M, D)."""
        self._leaves, self._features = [], None
        if self._encoder is None:
            self.made = contexts.new_zeros(len(contexts), 0, 0)
            return
        if contexts.dim() == 4:
            contexts = contexts[:, : len(self._encoder.tokens)]
        with torch.set_grad_enabled(learning):
            if learning:
                self._leaves, features = self._encoder.encode_apart(contexts)
                self._features = features
            else:
                features = self._encoder(contexts)
        self.made = features.detach()
        self.width = features.shape[-1]

    def backward(self, gradient: Tensor) -> None:
        """Compute the gradients of the contexts from that of the features (C, n or more, F); frees the graph.

        Raises:
            RuntimeError: there was no forward pass.
        """
        if self._encoder is None:
            return
        features, self._features = self._features, None
        if features is None:
            raise RuntimeError("there was no forward pass before this backward pass")
        gradients = torch.autograd.grad(features, self._leaves, gradient[:, : features.shape[1]])
        # With class-specific contexts, the gradient of a class is nonzero only in that of its own chunk.
        self.made = reduce(torch.add, gradients) if gradients[0].dim() == 4 else torch.stack(gradients, dim=1)

    def shrink(self) -> bool:
        """Halve the budget and free the graph; return False if the budget cannot be halved."""
        self._leaves, self._features = [], None
        try:
            if self._encoder is not None:
                self._encoder.shrink()
        except torch.OutOfMemoryError:
            return False
        return self._encoder is not None

    def subset(self, classes: Sequence[int]) -> "PromptShard":
        """Return a shard of some of this rank's classes; both collect notices in the same list."""
        return PromptShard(self._encoder.subset(classes) if self._encoder and classes else None, self._notes)

    def take_notes(self) -> list[str]:
        """Return the encoder's notices since the last call."""
        notes = list(self._notes)
        self._notes.clear()
        return notes


def deal(chunks: Sequence[Sequence[int]], ranks: int) -> list[list[int]]:
    """Distribute chunks among ranks in turn, so that their numbers differ by at most one.

    Returns:
        The classes of each rank in ascending order; a `PromptEncoder` splits them into the same chunks again.
    """
    return [sorted(c for chunk in chunks[rank::ranks] for c in chunk) for rank in range(ranks)]


def answer_prompts(team: Team, call: Message, things: dict[int, Any]) -> Message | None:
    """Execute a call about prompts on a rank other than 0.

    Args:
        team: the team.
        call: the call; its name is 'prompts.' plus the action.
        things: this rank's objects by number: models with a method `encoder_of`, and `PromptShard`s.

    Returns:
        The answer; None for `prompts.collect`, which has none.

    Raises:
        torch.OutOfMemoryError: the device cannot hold one class's prompts.
    """
    document, rank = call.document, team.ranks.rank
    number = document["number"]
    match document["call"]:
        case "prompts.new":
            tokens, model = _tokens(document["tokens"]), things[document["model"]]
            notes: list[str] = []
            encoder = model.encoder_of(tokens, budget=document["budget"], notice=notes.append)
            things[number] = PromptShard(encoder, notes)
        case "prompts.subset":
            things[number] = things[document["of"]].subset(document["classes"][rank])
        case "prompts.shrink":
            return Message({"shrunk": things[number].shrink()})
        case "prompts.collect":
            team.gather(_padded(things[number].made, tuple(document["shape"])))
            return None
        case "prompts.forward":
            shape = tuple(document["shape"])
            shared = len(shape) == 3
            contexts = team.broadcast(torch.empty(shape, device=team.device)) if shared else team.scatter(None, shape)
            things[number].forward(contexts, learning=document["learning"])
        case "prompts.backward":
            things[number].backward(team.scatter(None, tuple(document["shape"])))
    shard = things[number]
    return Message({"width": shard.width, "chunks": shard.chunks, "notes": shard.take_notes()})


def _tokens(document: dict[str, Any]) -> PromptTokens:
    rest = tuple(tuple(ids) for ids in document["rest"])
    names, start = tuple(document["names"]), tuple(document["start"])
    return PromptTokens(names, start, rest, document["pad"], filler=document["filler"])


def _padded(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return `part` padded with zeros at the end of its second dimension, because collectives need equal shapes."""
    if tuple(part.shape) == shape:
        return part.contiguous()
    whole = part.new_zeros(shape)
    if part.numel():
        whole[:, : part.shape[1]] = part
    return whole
