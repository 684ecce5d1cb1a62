"""A prompt encoder whose classes are shared out among the processes of a job.

Each rank encodes its own classes with the contexts rank 0 sends, keeps their graph, and sends the features; in the backward
pass it gets their gradients and sends the gradients of the contexts, which rank 0 adds up. Activations are thereby spread
over all devices: 21,000 classes take on eight of them what 2,600 take on one.

What is dealt out are the chunks that one process would encode, and their gradients are added in the order in which
autograd adds them there. Where devices compute alike, the result is therefore that of one process, bit for bit. Classes of
a single chunk are rank 0's own work: sending them about would take longer than encoding them.

Leaves out: the loss and the step, which rank 0 takes alone.
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
    """Rank 0's encoder of prompts of K classes on all ranks, used like a `PromptEncoder`.

    Classes are shared out at the first pass that learns. What is encoded before that, for a score or an anchor, is rank 0's
    own work.

    Args:
        model: the model that every rank has.
        tokens: the K prompts.
        make: makes a plain encoder on this rank, of (tokens, budget=, notice=).
        budget: bytes the activations of one call may take on each rank.
        notice: called with one line when a rank had to make its chunks smaller.
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
        """An encoder of n of the K classes, in the order given, shared out anew."""
        part = copy.copy(self)
        part._alone = self._alone.subset(classes)
        part._classes = [self._classes[c] for c in classes]
        part._parts = None
        return part

    def __call__(self, contexts: Tensor) -> Tensor:
        """Encode all classes with C contexts, as `PromptEncoder` does.

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
    """All classes, whose encoder each rank makes at the first call and of which it then takes what it is dealt."""

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
        """Deal out some of the classes, of which `chunks` says what is encoded together."""
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
        """The number under which every rank has an encoder of all classes, and rank 0's."""
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
    """The classes of all ranks: what rank 0 calls for, and its own part.

    Args:
        shared: the team, and the number of each rank's `PromptShard`.
        own: rank 0's.
        shards: the classes of each rank, by index.
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
        """Halve the budget of every rank that can; torch.OutOfMemoryError where none can."""
        self._team.call("prompts.shrink", {"number": self._number})
        shrunk = self._own.shrink()
        answers = self._team.answers()
        if not shrunk and not any(answer.document["shrunk"] for answer in answers):
            raise torch.OutOfMemoryError("not even one class's prompts fit the devices")

    def forward(self, contexts: Tensor, *, learning: bool) -> Tensor:
        """Features (C, K, F) of all ranks; `learning` keeps the graph for `backward`."""
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
        """The gradient of the contexts for that of the features (C, K, F) of the last forward pass."""
        shape = (len(gradient), self._most, gradient.shape[-1])
        self._team.call("prompts.backward", {"number": self._number, "shape": list(shape)})
        mine = self._team.scatter([_padded(gradient[:, shard], shape) for shard in self._shards], shape)
        self._together(lambda: self._own.backward(mine))
        if contexts.dim() == 4:
            return self._in_class_order(self._collect(self._part_shape(contexts)))
        parts = self._collect((len(contexts), max(self._chunks), *contexts.shape[1:]))
        # As `deal` went about it, from the last chunk to the first: in this order autograd goes back through them.
        dealt = sorted((place, rank) for rank, count in enumerate(self._chunks) for place in range(count))
        total = torch.zeros_like(contexts)
        for place, rank in reversed(dealt):
            total = total + parts[rank][:, place]
        return total

    def _together(self, own: Callable[[], None]) -> None:
        """Do this rank's part while the others do theirs; their answers are taken whatever comes of it."""
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
        """What each rank's last pass made, padded to `shape`."""
        self._team.call("prompts.collect", {"number": self._number, "shape": list(shape)})
        parts = self._team.gather(_padded(self._own.made, shape))
        self._team.settle()
        return parts

    def _in_class_order(self, parts: list[Tensor]) -> Tensor:
        """Put padded parts (C, n or more, ...) of all ranks together, their classes in their own order."""
        whole = torch.cat([part[:, : len(shard)] for part, shard in zip(parts, self._shards, strict=True)], dim=1)
        places = torch.tensor([c for shard in self._shards for c in shard], device=whole.device)
        return whole.index_select(1, torch.argsort(places))

    def _part_shape(self, contexts: Tensor) -> tuple[int, ...]:
        """The shape of what a rank gets of `contexts`: all of it, or the contexts of its own classes, padded."""
        if contexts.dim() == 3:
            return tuple(contexts.shape)
        return (len(contexts), self._most, *contexts.shape[2:])


class _Everywhere(torch.autograd.Function):
    """Autograd's view of all ranks: one step from contexts to features."""

    @staticmethod
    def forward(ctx: Any, contexts: Tensor, parts: _Parts) -> Tensor:
        features = parts.forward(contexts.detach(), learning=True)
        ctx.parts, ctx.number = parts, parts.passes
        ctx.save_for_backward(contexts)
        return features

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.number != ctx.parts.passes:
            raise RuntimeError("the backward pass has to come before the next forward pass")
        (contexts,) = ctx.saved_tensors
        return ctx.parts.backward(gradient, contexts), None


class PromptShard:
    """One rank's classes: features forward, gradients backward; the graph of the last pass is kept.

    `made` is what the last pass made: features (C, n, F), or gradients of the contexts: (C, chunks, M, D), one for each of
    the chunks, or of contexts per class (C, n, M, D). `width` is F, 0 before the first pass and where there are no classes.

    Args:
        encoder: of this rank's n classes; None where n is 0.
        notes: where the encoder's notices go.
    """

    def __init__(self, encoder: PromptEncoder | None, notes: list[str]) -> None:
        self._encoder, self._notes = encoder, notes
        self._leaves: list[Tensor] = []
        self._features: Tensor | None = None
        self.made = torch.empty(0)
        self.width = 0

    @property
    def chunks(self) -> int:
        """In how many chunks the last pass that learns encoded the classes."""
        return len(self._leaves)

    def forward(self, contexts: Tensor, *, learning: bool) -> None:
        """Make features (C, n, F) of this rank's classes for (C, M, D), or (C, n, M, D) with n or more."""
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
        """Make the gradients of the contexts for that of the features (C, n, F), with n or more; uses the graph up."""
        if self._encoder is None:
            return
        features, self._features = self._features, None
        if features is None:
            raise RuntimeError("no forward pass to go back through")
        gradients = torch.autograd.grad(features, self._leaves, gradient[:, : features.shape[1]])
        # With contexts per class, each class's gradient is in that of its own chunk and zero in the others.
        self.made = reduce(torch.add, gradients) if gradients[0].dim() == 4 else torch.stack(gradients, dim=1)

    def shrink(self) -> bool:
        """Halve the budget, and forget the graph; False where it cannot be halved."""
        self._leaves, self._features = [], None
        try:
            if self._encoder is not None:
                self._encoder.shrink()
        except torch.OutOfMemoryError:
            return False
        return self._encoder is not None

    def subset(self, classes: Sequence[int]) -> "PromptShard":
        """A shard of some of this rank's classes; its notices are this one's."""
        return PromptShard(self._encoder.subset(classes) if self._encoder and classes else None, self._notes)

    def take_notes(self) -> list[str]:
        """The encoder's notices since the last time."""
        notes = list(self._notes)
        self._notes.clear()
        return notes


def deal(chunks: Sequence[Sequence[int]], ranks: int) -> list[list[int]]:
    """Share chunks out in turn, at most one more or less for each rank.

    Returns:
        The classes of each rank in ascending order, in which a `PromptEncoder` makes the same chunks of them again.
    """
    return [sorted(c for chunk in chunks[rank::ranks] for c in chunk) for rank in range(ranks)]


def answer_prompts(team: Team, call: Message, things: dict[int, Any]) -> Message | None:
    """What a rank other than 0 does at a call about prompts; `prompts.collect` has no answer.

    Args:
        team: the team.
        call: the call, named 'prompts.' and what to do.
        things: this rank's things by number: models with a method `encoder_of`, and `PromptShard`s.

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
    """`part` with zeros behind its second dimension: collectives want equal shapes."""
    if tuple(part.shape) == shape:
        return part.contiguous()
    whole = part.new_zeros(shape)
    if part.numel():
        whole[:, : part.shape[1]] = part
    return whole
