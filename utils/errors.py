"""Errors that are the user's to mend: a command prints them as one line and exits with code 2.

Anything that is not an `InputError` (or the system's own `OSError`) is a bug and keeps its traceback.
"""

import signal


class InputError(ValueError):
    """Bad input. The message says where (file, line), what was expected and what came."""


class CfgError(InputError):
    """A .cfg file that cannot be read or built, with `file:line` in front."""


class WeightsError(InputError):
    """A weights file or checkpoint that does not fit its network, or is no such file."""


class DataError(InputError):
    """A data description, label file or image that cannot be used."""


class Stopped(BaseException):  # noqa: N818 - not an error; as Ctrl-C, it passes by what catches errors
    """Work that was asked to stop by a signal, and did so in good order; `number` is the signal's.

    The message says where it stopped and how to go on, once `advise` has been told. Not `whole`: in the middle of a
    step, so that what is in memory is no state to go on from.
    """

    def __init__(self, number: int, whole: bool = True) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number, self.whole = number, whole

    def advise(self, words: str) -> None:
        """Put where it stopped and how to go on behind the signal's name, in place of earlier words."""
        self.args = (f"stopped by {signal.Signals(self.number).name} {words}",)
