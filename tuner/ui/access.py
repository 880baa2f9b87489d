"""
Who may see a run and who may change it, as routes and handlers ask before they answer.

A run that somebody may not see answers exactly like one that does not exist.
"""

import os
import time
from typing import Any, Protocol

from starlette.requests import Request

from tuner.errors import RunError
from tuner.hub.identity import Person, Role, person_of
from tuner.runs.run import Run
from tuner.runs.status import read_status

PERSON = "tuner.person"  # in a request's scope, which nobody outside this process can write to
OLD_SECONDS = 1.0
MOST_KEPT = 5000


class Access(Protocol):
    """Decides for one request and one run. Called for every poll, so it must be quick."""

    def is_owner(self, request: Request) -> bool:
        """Whether everything on this page is this person's to see and change."""
        ...

    def may_see(self, request: Request, run: Run) -> bool:
        """Whether the run's story, figures and files may be read."""
        ...

    def may_change(self, request: Request, run: Run) -> bool:
        """Whether the run may be stopped, resumed, renamed or deleted."""
        ...


class Everyone:
    """No difference between people: whoever reaches the page sees and changes every run."""

    def is_owner(self, request: Request) -> bool:
        return True

    def may_see(self, request: Request, run: Run) -> bool:
        return True

    def may_change(self, request: Request, run: Run) -> bool:
        return True


class ByRole:
    """Owners every run; who signed in their own; everybody sees what was made public."""

    def is_owner(self, request: Request) -> bool:
        return person(request).role is Role.OWNER

    def may_see(self, request: Request, run: Run) -> bool:
        here = person(request)
        return here.role is Role.OWNER or is_public(run) or is_theirs(here, run)

    def may_change(self, request: Request, run: Run) -> bool:
        here = person(request)
        return here.role is Role.OWNER or is_theirs(here, run)


def person(request: Request) -> Person:
    """Who sent a request; see tuner/hub/identity.py. Found out once in a request."""
    here: Person | None = request.scope.get(PERSON)
    if here is None:
        here = request.scope[PERSON] = person_of(request)
    return here


def http_request(request: Any) -> Request:
    """The HTTP request behind Gradio's, which holds its address, headers and session."""
    found: Request = getattr(request, "request", request)
    return found


def is_public(run: Run) -> bool:
    """Whether everybody may look at a run."""
    return _standing(run)[1]


def is_theirs(here: Person, run: Run) -> bool:
    """Whether somebody who signed in made this run."""
    return here.role is Role.SIGNED_IN and bool(here.name) and _standing(run)[0] == here.name


def _standing(run: Run) -> tuple[str | None, bool]:
    """Whose a run is and whether it is public; nobody's where it was deleted a moment ago.

    This is asked at every poll, of a list for each run, so a status is read again only when its
    file was replaced.
    """
    path = str(run.status_path)
    try:
        file = os.stat(path)  # noqa: PTH116 (a Path's takes a fifth longer)
        version = (file.st_mtime_ns, file.st_ino)
        kept = _read.get(path)
        if kept and kept[0] == version:
            return kept[1]
        status = read_status(run.status_path)
    except (OSError, RunError):
        return None, False
    standing = (status["owner"], status["public"] is True)
    # A file that was replaced a moment ago may be again, with the same time and inode.
    if time.time() - file.st_mtime > OLD_SECONDS:
        if len(_read) >= MOST_KEPT:
            _read.clear()
        _read[path] = (version, standing)
    return standing


_read: dict[str, tuple[tuple[int, int], tuple[str | None, bool]]] = {}
