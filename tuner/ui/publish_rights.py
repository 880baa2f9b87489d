"""
Who publishes what: the run that somebody may publish, and with which token.

On a Space the signed-in person's own token, elsewhere the one pasted for this push, or, for who
sits at this machine, the login that `hf auth login` left on it. A token is returned to the one call
that needs it; nothing here keeps, logs or shows one.
"""

import gradio as gr
from starlette.requests import Request

from tuner.errors import HubError, RunError
from tuner.hub.api import hub_api, hub_sentences, machine_token
from tuner.hub.identity import Person, Role
from tuner.runs.store import Run
from tuner.ui.access import person
from tuner.ui.options import in_a_space
from tuner.ui.services import Services
from tuner.ui.visit import Visit

SHOWN_CHARACTERS = 200


def person_here(request: gr.Request) -> Person:
    """Who asks."""
    return person(request_of(request))


def request_of(request: gr.Request) -> Request:
    """The HTTP request behind Gradio's."""
    return request.request  # type: ignore[no-any-return]


def run_to_publish(services: Services, run_id: str | None, request: gr.Request) -> Run:
    """The run, if this person may publish it; to others it does not exist.

    Raises:
        RunError: There is none, or none for this person.
    """
    if not run_id:
        raise RunError("No run is chosen. Choose one above.")
    return Visit(services, request).own_run(run_id)


def runs_to_publish(services: Services, request: gr.Request, most: int) -> list[Run]:
    """The newest runs that kept something and that this person may publish."""
    found: list[Run] = []
    for run in services.store.list():
        if len(found) < most and _has_kept(run) and _may_change(services, request, run):
            found.append(run)
    return found


def token_for(pasted: str, request: gr.Request) -> str:
    """With which token this person publishes.

    Raises:
        HubError: There is none for them.
    """
    here = person_here(request)
    if in_a_space():
        if not here.token:
            raise HubError("You are not signed in. Sign in at the top of the page, then publish.")
        return str(here.token)
    if pasted.strip():
        return pasted.strip()
    if here.role is not Role.OWNER:
        raise HubError("There is no token. Paste one: this machine's login is its owner's alone.")
    if found := machine_token():
        return found
    raise HubError(
        "There is no token. Paste one that may write, or log this machine in with `hf auth login`."
    )


def may_use_login(request: gr.Request) -> bool:
    """Whether the machine's own login is there, and for this person to use."""
    return not in_a_space() and person_here(request).role is Role.OWNER and has_login()


def has_login() -> bool:
    """Whether somebody has logged this machine in to the Hub. Nobody is asked."""
    return machine_token() is not None


def login_name() -> str:
    """Whose login it is, as the Hub says.

    Raises:
        HubError: The Hub does not answer, or does not know the token.
    """
    with hub_sentences("ask the Hub whose login this is", ""):
        return str(hub_api(machine_token()).whoami()["name"])


def _has_kept(run: Run) -> bool:
    return run.adapter_dir.is_dir() or run.model_dir.is_dir()


def _may_change(services: Services, request: gr.Request, run: Run) -> bool:
    try:
        return services.access.may_change(request_of(request), run)
    except RunError:  # deleted a moment ago
        return False
