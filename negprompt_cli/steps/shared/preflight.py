"""Checks before a step starts, whose errors are reported together.

If both the data and the artifact of an earlier step are missing, one message names both.
"""

from collections.abc import Callable

from negprompt_cli.errors import SeveralErrors, UsageError


def together(*checks: Callable[[], object]) -> None:
    """Run checks and raise one error with all their messages.

    Raises:
        UsageError: at least one check raised one.
    """
    errors: list[UsageError] = []
    for check in checks:
        try:
            check()
        except UsageError as error:
            if str(error) not in map(str, errors):
                errors.append(error)
    if errors:
        raise SeveralErrors(errors) if len(errors) > 1 else errors[0]
