"""The errors of the package that a person may see. Any other exception that reaches a person is a bug.

    NegPromptError          exit code 1: the job failed while it ran (disk full, out of memory, no network)
    +-- UsageError          exit code 2: the request cannot be met (bad option, bad input, missing file)

Every message says what happened, where, and what to do, because nothing else is shown without --debug. The code that raises
an error does not know whether the command line called it, so its message names settings and files, never options. If an
option helps, the error has the name of a remedy and the facts for it, and `cli.remedies` writes the sentence.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class NegPromptError(Exception):
    """The job failed at run time; `str(error)` is the message for every caller.

    Args:
        message: what happened, where, and what to do.
        remedy: key in `cli.remedies.REMEDIES` of more advice for a person at the command line, or empty.
        facts: values by name, which the advice inserts.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "", **facts: object) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.facts = facts


class UsageError(NegPromptError):
    """The request or its input is wrong; the message says what to change."""

    exit_code = 2


class SeveralErrors(UsageError):
    """Several mistakes of one request, reported together.

    Args:
        errors: the mistakes, at least one.
    """

    def __init__(self, errors: Iterable[UsageError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return ` Did you mean 'a', 'b'?` with the known names nearest to `name`, or every known name if none is near.

    Args:
        name: what was asked for.
        known: the names that exist.
        most: how many near names to offer. Names that are much less alike than the nearest are not offered.
    """
    names = sorted(set(known))
    ratios = sorted(((_likeness(name, n), n) for n in names), key=lambda pair: (-pair[0], pair[1]))
    near = [n for ratio, n in ratios[:most] if ratio >= 0.6 and ratio >= ratios[0][0] - 0.1]
    if near:
        return " Did you mean " + ", ".join(map(repr, near)) + "?"
    return " Known names: " + ", ".join(names) + "." if names else ""


def _likeness(name: str, known: str) -> float:
    """How alike two names are, 0 to 1, without case; a match with a long part between dashes counts almost as much."""
    asked, whole = name.casefold(), known.casefold()
    parts = [part for part in whole.split("-") if len(part) >= 4] if "-" in whole else []
    alike = difflib.SequenceMatcher(None, asked, whole).ratio()
    return max([alike, *(0.95 * difflib.SequenceMatcher(None, asked, part).ratio() for part in parts)])


_EXPECTED = {
    "int_": "a whole number",
    "float_": "a number",
    "bool_": "true or false",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "a text that matches the pattern {pattern}",
    "string_type": "a text, in quotes if it looks like a number, a date or a truth value",
    "tuple_": "a list, such as [a, b]",
    "list_": "a list, such as [a, b]",
    "model_": "keys below this one, each with its value",
    "dict_": "keys below this one, each with its value",
    "too_short": "a list with at least {min_length} values",
}
"""What a value must be, by the beginning of pydantic's name for the problem."""
SHOWN_CHARACTERS = 200
"""Longest part of a key or a value that a message shows."""


def wrong_value(name: str, problems: "Sequence[ErrorDetails]") -> str:
    """A sentence that names a value, says what it must be, and shows what was given.

    Args:
        name: the name of the value: a key, or an option.
        problems: what pydantic found: one problem, or one for each kind of value that is allowed.
    """
    value, allowed = problems[0]["input"], []
    for problem in (problem for problem in problems if problem["input"] is value):
        kind, facts = problem["type"], problem.get("ctx", {})
        if kind in ("missing", "extra_forbidden"):
            return f"{name} is {'missing' if kind == 'missing' else 'unknown'}."
        text = next((words for start, words in _EXPECTED.items() if kind.startswith(start)), None)
        if text is None:
            return f"{name}: {str(facts.get('error', problem['msg'])).rstrip('.')}."
        allowed.append(text.format(**facts).removesuffix(".0"))
    return f"{name} must be {' or '.join(dict.fromkeys(allowed))}, not {_shown(value)}."


def _shown(value: object) -> str:
    """A value as Python writes it, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def first_fault(error: "ValidationError") -> str:
    """The first problem that pydantic found, such as `rows.0.auroc is missing`, without the full stop."""
    first = error.errors()[0]
    return wrong_value(".".join(map(str, first["loc"])) or "the top level", [first]).removesuffix(".")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
