"""Every error Tuner raises on purpose, one family.

The message is what a person reads: setting and value, reason, remedy. Several problems found at
once are several lines of one message, so that nobody fixes them one run at a time.
"""

from collections.abc import Sequence


class TunerError(Exception):
    """A problem that the person at the keyboard can do something about.

    Args:
        problems: One sentence, or all that were found at once.
    """

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class RecipeError(TunerError, ValueError):
    """A setting that is unknown, malformed or impossible."""


class DatasetError(TunerError, ValueError):
    """Data that cannot be read, recognised or trained on."""


class ModelError(TunerError, ValueError):
    """A base model that is missing, gated, unsafe or unsuitable."""


class RunError(TunerError, ValueError):
    """A run that does not exist, is in the wrong state, or has nowhere to be written."""


class TrainingError(TunerError, RuntimeError):
    """Training began and could not go on: no memory, a loss that is not a number, a full disk."""


class ChatError(TunerError, RuntimeError):
    """A question that cannot be answered now: too long, no memory, an engine that ended."""


class HubError(TunerError, RuntimeError):
    """The Hub said no or nothing, cannot be reached, or is asked for what does not suit."""


class ExportError(TunerError, RuntimeError):
    """Weights that could not be merged or written, or that do not compute what they should."""
