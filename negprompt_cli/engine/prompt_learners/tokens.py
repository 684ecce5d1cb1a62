"""Class names as token ids, split where the context vectors go: [start] | context | name . [end].

CoOp's layout (Zhou et al., IJCV 2022, section 3.1, class token at the end): a prompt is
[SOS] v1 .. vM classname . [EOS]. The text is tokenised without a context, and the context is put in behind the start
token: byte-pair and word-piece vocabularies never join across a space, so the ids are those of the whole sentence
(the tests compare the two). Leaves out: contexts in the middle of or behind the class name.
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
    """Token ids of K prompts around a gap for M context vectors.

    `start`: ids before the gap, the same for all classes (S of them). `rest`: for each class the ids behind the gap, up to
    and with the token that is read out. `pad`: the id that fills a sequence to full length. `filler`: the id of an
    ordinary word, which holds the gap where a model's own code sees ids and not vectors.
    """

    names: tuple[str, ...]
    start: tuple[int, ...]
    rest: tuple[tuple[int, ...], ...]
    pad: int
    filler: int

    def __len__(self) -> int:
        return len(self.rest)

    def lengths(self) -> list[int]:
        """Tokens of each class behind the gap."""
        return [len(r) for r in self.rest]

    def subset(self, classes: Sequence[int]) -> "PromptTokens":
        """The prompts of some of the K classes, by index and in the order given."""
        names, rest = tuple(self.names[c] for c in classes), tuple(self.rest[c] for c in classes)
        return replace(self, names=names, rest=rest)


def tokenize_prompts(
    names: Sequence[str], tokenizer: Tokenizer, plan: TowerPlan, *, context: int, template: str = "{}."
) -> PromptTokens:
    """Tokenise class names for prompts with `context` vectors in front of them.

    Args:
        names: K class names as words.
        tokenizer: the model's own.
        plan: the model's text path; its context length bounds the whole prompt.
        context: number M of context vectors that will be put in.
        template: the text behind the context, with {} for the name.

    Raises:
        UsageError: a prompt would be longer than the tower reads (such classes are named with their length), or the
            tower reads out an end token that its tokenizer does not write.
    """
    limit = plan.context_length
    texts = [template.format(name.replace("_", " ")) for name in names]
    # Long enough to see the true length of any name that is not absurd; longer ones are refused below all the same.
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
        # The read-out token sits behind the padding, which a causal tower lets it attend to.
        rest = [r + (pad,) * (room - len(r)) for r in rest]
    return PromptTokens(tuple(names), tuple(probe_a[:start]), tuple(rest), pad, filler=probe_a[start])


def word_ids(words: str, tokenizer: Tokenizer, plan: TowerPlan) -> list[int]:
    """Ids of some words alone, without the start, end and padding a tokenizer puts around them."""
    rows = tokenizer([words, "a", "the"], context_length=4 * plan.context_length).tolist()
    ids, a, the = (_strip(row, rows[-1][-1]) for row in rows)
    start = next(i for i, (x, y) in enumerate(zip(a, the, strict=False)) if x != y)
    end = next(i for i, (x, y) in enumerate(zip(reversed(a), reversed(the), strict=False)) if x != y)
    return ids[start : len(ids) - end]


def _up_to_end(row: list[int], plan: TowerPlan, pad: int) -> list[int]:
    """Cut a padded row behind its last meaningful token, the one a tower pools where it pools one."""
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
    """Cut the padding off a row."""
    end = len(row)
    while end and row[end - 1] == pad:
        end -= 1
    return row[:end]
