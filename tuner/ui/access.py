"""
Who may see a run and who may change it, as the routes ask before they answer.

A run that somebody may not see answers exactly like one that does not exist.
"""

from typing import Protocol

from starlette.requests import Request

from tuner.runs.run import Run


class Access(Protocol):
    """Decides for one request and one run. Called for every poll, so it must be quick."""

    def may_see(self, request: Request, run: Run) -> bool:
        """Whether the run's story, figures and files may be read."""
        ...

    def may_change(self, request: Request, run: Run) -> bool:
        """Whether the run may be stopped, resumed, renamed or deleted."""
        ...


class Everyone:
    """No sign-in: whoever reaches the page sees and changes every run."""

    def may_see(self, request: Request, run: Run) -> bool:
        return True

    def may_change(self, request: Request, run: Run) -> bool:
        return True
