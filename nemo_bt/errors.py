"""The one exception that means "the user can mend this": shown as a single message, exit status 2."""


class UserError(ValueError):
    """A mistake in configuration or data. The text says what was expected, what was found and what to change.

    The command line prints it without a traceback and exits with status 2; from Python it is a `ValueError`.
    """


def first_line(error: BaseException) -> str:
    """Give the first line of an error's text, or its kind where it has none."""
    return (str(error).splitlines() or [repr(error)])[0]
