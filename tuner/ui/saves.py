"""
Copies to the Hub at every save, for runs that the page starts, and back: with whose token.

On a Space the token of who signed in, elsewhere this machine's own login, for its owner alone. It
goes into the environment of the process that copies (hub/saves.py), and nowhere else.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from tuner.hub.api import machine_token
from tuner.hub.identity import Person, Role
from tuner.hub.own_repo import require_saves
from tuner.hub.pull import Pulled, pull_run
from tuner.hub.saves import start_saver
from tuner.recipe import Recipe
from tuner.runs.pushes import is_being_pushed, record_push
from tuner.runs.run import Run
from tuner.runs.store import RunStore
from tuner.ui.options import in_a_space

if TYPE_CHECKING:
    from tuner.ui.visit import Visit

RESTARTED = (
    "No copies are pushed any more: the app was restarted, and nobody's token is kept. Stop the "
    "run, and resume it to go on with them."
)


def require_copies(here: Person, recipe: Recipe, created: float | None = None) -> None:
    """Make sure that the copies that a recipe asks for could be pushed by this person.

    Args:
        created: When the run was made, of one that is resumed.

    Raises:
        RecipeError: They could not.
    """
    if recipe.push_every_save:
        require_saves(recipe, token_of(here), created)


def start_copies(here: Person, run: Run) -> None:
    """Let a run that was put in line be copied, if its recipe asks for it."""
    if run.recipe().push_every_save:
        start_saver(run, token_of(here))


def go_on_with_copies(run: Run) -> None:
    """Before a run's turn comes: have it copied though the app was restarted, or say it is not."""
    recipe = run.recipe()
    if not recipe.push_every_save or is_being_pushed(run):
        return
    if not in_a_space() and (token := machine_token()):
        start_saver(run, token)
        return
    with suppress(OSError):  # a full disk; the run itself will say so
        record_push(run, "failed", recipe.hub_model_id or "", None, RESTARTED)


def pull_for(visit: "Visit", store: RunStore, repo: str, revision: str | None) -> Pulled:
    """Bring a run back from the Hub for who may train here; it is theirs.

    Raises:
        TunerError: They may not, or see pull_run.
    """
    visit.require_training()
    return pull_run(
        store,
        repo,
        token_of(visit.person),
        revision=revision or None,
        owner=visit.person.name,
        refused=visit.problems,
    )


def token_of(here: Person) -> str | None:
    """With which token this person's copies are pushed; None where there is none for them."""
    if in_a_space():
        return here.token
    return machine_token() if here.role is Role.OWNER else None
