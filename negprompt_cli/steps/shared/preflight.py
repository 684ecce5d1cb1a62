"""What must be there before a step can start, checked first and reported all at once.

A person who starts a step without its data and without the artifact of the step before hears of both in one message.
"""

from collections.abc import Callable

from negprompt_cli.errors import SeveralErrors, UsageError


def together(*checks: Callable[[], object]) -> None:
    """Run checks and raise one error with everything they complain of.

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
