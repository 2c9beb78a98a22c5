"""The errors that the command line turns into one message and an exit code."""


class InputError(ValueError):
    """Something the user gave is wrong; the message names it, its value and what would be right.

    The command line prints the message without a traceback and exits with 2.
    """


class NonFiniteError(ArithmeticError):
    """A loss, gradient or likelihood became NaN or infinite; the command line exits with 3."""


class StoppedError(Exception):
    """A signal stopped a run, which can be resumed; the command line exits with 75."""


class DisagreementError(Exception):
    """The processes of a distributed run have different weights; the command line exits with 3."""
