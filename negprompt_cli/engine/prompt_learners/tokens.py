"""Class names as token ids, split at the place of the context vectors: [start] | context | name . [end].

The layout is CoOp's (Zhou et al., IJCV 2022, section 3.1, class token at the end): a prompt is
[SOS] v1 .. vM classname . [EOS]. The text is tokenised without a context, and the context is inserted after the start
token. Byte-pair and word-piece vocabularies never join tokens across a space, so the ids equal those of the whole sentence
(tests compare the two). Contexts in the middle of the class name or after it are not supported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from negprompt_cli.engine.prompt_learners.towers import TowerPlan
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

Tokenizer = Callable[..., Tensor]
"""open_clip's tokenizer: (list of B texts, context_length=L) to ids (B, L)."""


@dataclass(frozen=True)
class PromptTokens:
    """Token ids of K prompts with a gap for M context vectors.

    `start`: the S ids before the gap, the same for all classes. `rest`: for each class the ids after the gap, up to and
    including the read-out token. `pad`: the id that fills a sequence to full length. `filler`: the id of an ordinary word,
    which fills the gap where a model's own code needs ids instead of vectors.
    """

    names: tuple[str, ...]
    start: tuple[int, ...]
    rest: tuple[tuple[int, ...], ...]
    pad: int
    filler: int

    def __len__(self) -> int:
        return len(self.rest)

    def lengths(self) -> list[int]:
        """Number of tokens of each class after the gap."""
        return [len(r) for r in self.rest]

    def subset(self, classes: Sequence[int]) -> "PromptTokens":
        """Return the prompts of some of the K classes, by index, in the given order."""
        names, rest = tuple(self.names[c] for c in classes), tuple(self.rest[c] for c in classes)
        return replace(self, names=names, rest=rest)


def tokenize_prompts(
    names: Sequence[str], tokenizer: Tokenizer, plan: TowerPlan, *, context: int, template: str = "{}."
) -> PromptTokens:
    """Tokenise class names for prompts with `context` vectors in front of them.

    Args:
        names: K class names as words.
        tokenizer: the model's own.
        plan: the model's encoding path; its context length limits the whole prompt.
        context: number M of context vectors to be inserted.
        template: the text after the context, with {} for the name.

    Raises:
        UsageError: a prompt is longer than the tower reads (the message lists such classes with their lengths), or the
            tower reads out an end token that its tokenizer does not write.
    """
    limit = plan.context_length
    texts = [template.format(name.replace("_", " ")) for name in names]
    # Tokenise beyond the limit, so that the message below states the true length of all but extremely long names.
    rows = tokenizer([*texts, "a", "the"], context_length=4 * limit).tolist()
    probe_a, probe_b = rows[-2:]
    start = next(i for i, (a, b) in enumerate(zip(probe_a, probe_b, strict=True)) if a != b)
    pad = int(rows[-1][-1])
    rest = [tuple(_up_to_end(row, plan, pad)[start:]) for row in rows[:-2]]
    room = limit - start - context
    too_long = [f"'{n}' ({start + context + len(r)})" for n, r in zip(names, rest, strict=True) if len(r) > room]
    if too_long:
        raise UsageError(
            f"Prompts longer than the text tower's {limit} tokens, {context} context vectors included: {some_of(too_long)}. "
            "Shorten the class names or use fewer context vectors."
        )
    if plan.path == "prefix" and plan.pool == "last":
        # The read-out token is after the padding, and in a causal tower it attends to the padding.
        rest = [r + (pad,) * (room - len(r)) for r in rest]
    return PromptTokens(tuple(names), tuple(probe_a[:start]), tuple(rest), pad, filler=probe_a[start])


def word_ids(words: str, tokenizer: Tokenizer, plan: TowerPlan) -> list[int]:
    """Return the ids of some words, without the start, end and padding tokens that a tokenizer adds."""
    rows = tokenizer([words, "a", "the"], context_length=4 * plan.context_length).tolist()
    ids, a, the = (_strip(row, rows[-1][-1]) for row in rows)
    start = next(i for i, (x, y) in enumerate(zip(a, the, strict=False)) if x != y)
    end = next(i for i, (x, y) in enumerate(zip(reversed(a), reversed(the), strict=False)) if x != y)
    return ids[start : len(ids) - end]


def _up_to_end(row: list[int], plan: TowerPlan, pad: int) -> list[int]:
    """Cut a padded row after its last meaningful token, which is the one that a tower with a single read-out token uses."""
    if plan.pool == "argmax":
        return row[: row.index(max(row)) + 1]
    if plan.pool == "eos":
        if plan.eos_id not in row:
            raise UsageError(
                f"The text tower reads out the end token {plan.eos_id}, which its tokenizer does not write: the model's "
                "configuration (eos_id) is wrong."
            )
        return row[: row.index(plan.eos_id) + 1]
    return _strip(row, pad)


def _strip(row: list[int], pad: int) -> list[int]:
    """Remove the padding from a row."""
    end = len(row)
    while end and row[end - 1] == pad:
        end -= 1
    return row[:end]
