"""The one exception that a user can cause; anything else that escapes is a defect and shows its traceback."""


class UserError(Exception):
    """Something a user can put right: a missing or corrupt file, a wrong option, dimensions that disagree.

    The message is one line that says what was expected and found, where (file, key, byte or line), and what to do;
    further lines are what it quotes, the last lines of a job's log say (see :mod:`nnet3py.log`).
    A program prints it as ``ERROR (...)`` and exits with status 1 (see :mod:`nnet3py.program`).
    """


def reason(problem: BaseException) -> str:
    """The short cause of an operating-system error ("No such file or directory"), without its number and path."""
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
