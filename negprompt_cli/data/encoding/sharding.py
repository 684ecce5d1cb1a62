"""Process batches of image files with the model on every rank of a job; rank 0 returns them in order.

Ranks process whole batches in turn. Batches are therefore the same as with one process, and features are bit for bit equal
(with the same kind of device and number of threads). Rank 0 distributes batches in rounds, processes its own, and receives
the results of the others in order. Rounds may start small and grow, so that first results come early; only the paths of one
round are read ahead. A single process handles all batches itself.

If the images of a round are inside tar or Parquet files, and there are at least as many files as ranks, one rank reads each
file as a whole, so that not every rank must read every file. A rank then works through its files while rank 0 receives
results of others, and keeps its own results until rank 0 receives them; these are features, which are small.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negprompt_cli.data.encoding.batches import Batch, Reading, Work, image_features, run_batches
from negprompt_cli.data.sets.packed import container
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.parallel.rank_calls import LostRank, Message, Shared, Team, failure, raise_failure
from negprompt_cli.engine.parallel.shared_clip import SharedClip
from negprompt_cli.errors import NegPromptError

MOST_BATCHES = 256
"""Largest number of batches per rank in a round: with 256 images each, about half a minute on a fast GPU."""
GROWTH = 4
"""Growth factor of rounds. Ranks wait for each other between rounds, so later rounds are larger."""


@dataclass(frozen=True)
class Job:
    """The name of a kind of work, which every rank knows (see `JOBS`), and its settings as JSON values."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


FEATURES = Job("features")
"""Image features: 'features' (g, F) float32, L2-normalised."""

JOBS: dict[str, Callable[[Job, Clip], Work]] = {"features": lambda job, clip: image_features}
"""Functions that make the work of a job on a rank, by name. Modules with other jobs add them when imported."""


def run_everywhere(
    clip: Clip,
    batches: Iterable[Sequence[Path]],
    job: Job,
    reading: Reading,
    *,
    first: int = MOST_BATCHES,
) -> Iterator[Batch]:
    """Run a job on batches of image files on all ranks, as `run_batches` does on one.

    Args:
        clip: the model, shared or not.
        batches: batches of paths; those of a round are read before its first result.
        job: the work to do.
        reading: how each rank reads its batches.
        first: batches per rank in the first round; later rounds grow up to `MOST_BATCHES`.

    Yields:
        The batches in order.

    Raises:
        NegPromptError: another rank failed.
    """
    if not isinstance(clip, SharedClip):
        yield from run_batches(clip, batches, JOBS[job.name](job, clip), reading)
        return
    source, most = iter(batches), first
    while share := list(itertools.islice(source, most * clip.shared.team.ranks.size)):
        yield from _round(clip, clip.shared, share, job, reading)
        most = min(GROWTH * most, MOST_BATCHES)


def file_owners(share: Sequence[Sequence[Path]], size: int) -> list[int] | None:
    """Return the rank of each batch, with one rank per tar or Parquet file; None if there are too few such files.

    The next file is assigned to the rank with the fewest images so far; the file of a batch is that of its first image.
    """
    files = [container(batch[0]) if batch else None for batch in share]
    named = {file for file, batch in zip(files, share, strict=True) if batch}
    if None in named or len(named) < size:
        return None
    owners: dict[Path | None, int] = {None: 0}  # An empty batch needs no work.
    images = [0] * size
    for file, batch in zip(files, share, strict=True):
        owner = owners.setdefault(file, images.index(min(images)))
        images[owner] += len(batch)
    return [owners[file] for file in files]


def _round(clip: Clip, shared: Shared, share: list[Sequence[Path]], job: Job, reading: Reading) -> Iterator[Batch]:
    """Run one round on rank 0."""
    team, size, number = shared.team, shared.team.ranks.size, shared.team.number()
    of_files = file_owners(share, size) if job.name == FEATURES.name else None
    owners = of_files or [i % size for i in range(len(share))]
    dealt = [[batch for batch, owner in zip(share, owners, strict=True) if owner == rank] for rank in range(size)]
    asked = {
        "number": number,
        "model": shared.number,
        "job": job.name,
        "settings": job.settings,
        "reading": asdict(reading),
        "ahead": of_files is not None,
    }
    team.call("images", asked, job.tensors)
    for rank in team.others:
        team.send(Message({"batches": [[str(path) for path in batch] for batch in dealt[rank]]}), rank)
    busy = set(team.others)
    own = run_batches(clip, dealt[0], JOBS[job.name](job, clip), reading)
    with closing(own):
        try:
            for owner, paths in zip(owners, share, strict=True):
                if owner == 0:
                    yield next(own)
                    continue
                message = _next(team, owner, busy)
                yield Batch(tuple(paths), tuple(message.document["errors"]), message.tensors)
        except BaseException:
            _call_off(team, number, busy)
            raise
    for rank in team.others:
        _next(team, rank, busy)
    team.settle()


def _next(team: Team, rank: int, busy: set[int]) -> Message:
    """Return the next message of a busy rank, a batch or the end; raise its failure."""
    message = team.receive(rank)
    if message.document.keys() & {"end", "failure"}:
        busy.discard(rank)
    raise_failure(message, rank)
    return message


def _call_off(team: Team, number: int, busy: set[int]) -> None:
    """Make the other ranks stop before their next batch, and receive what they have sent, so that they wait for calls again.

    The original error is reported; errors of ranks that do not answer any more are ignored.
    """
    with suppress(NegPromptError, torch.OutOfMemoryError):
        team.stop(number)
        for rank in sorted(busy):
            while rank in busy:
                _next(team, rank, busy)
        team.settle()


def answer_images(team: Team, call: Message, things: dict[int, Any]) -> None:
    """Execute a call for images on a rank other than 0: process its batches, send each result, then the end.

    Args:
        team: the team.
        call: the call.
        things: this rank's objects by number, including the model.
    """
    asked = call.document
    clip: Clip = things[asked["model"]]
    job = Job(asked["job"], asked["settings"], call.tensors)
    batches = [[Path(path) for path in batch] for batch in team.receive(0).document["batches"]]
    try:
        for batch in run_batches(clip, batches, JOBS[job.name](job, clip), Reading(**asked["reading"])):
            if team.stopped(asked["number"]):
                break
            (team.post if asked["ahead"] else team.send)(Message({"errors": list(batch.errors)}, batch.results), 0)
    except LostRank:
        raise
    except (NegPromptError, torch.OutOfMemoryError) as error:
        team.send(failure(error), 0)
    else:
        team.send(Message({"end": True}), 0)
