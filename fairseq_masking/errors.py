"""The one exception for what a user can put right: it is shown as a single line, without a traceback."""

__all__ = ["PREPARE_AGAIN", "UserError", "first_line"]

PREPARE_AGAIN = "prepare the corpus again with fairseq-masking prepare corpus"


class UserError(ValueError):
    """Bad input from outside: a wrong option, file, folder or checkpoint.

    The message is one line that names the value, what is allowed and what to do. ``compat`` prints it
    without a traceback and exits with status 1; from Python it is an ordinary ``ValueError``.
    """


def first_line(error: BaseException) -> str:
    """Return what another library's error says, for a line of ours; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
