"""
The repo that a run's copies go to: private, and of this run alone; checked before the run begins.

    require_saves(recipe, token)                        a new run: the repo is missing or empty
    require_saves(recipe, token, status["created"])     a resumed one: it may hold the run's copy

Whose copy a repo holds is in its run/run.json (run_copy.py).
Not covered: pushing, see saves.py.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tuner.errors import HubError, RecipeError
from tuner.hub.api import WAITS, hub_api, hub_sentences, patiently
from tuner.hub.run_copy import FOLDER, MANIFEST, read_manifest
from tuner.hub.target import Target, check_target
from tuner.recipe import Recipe


def require_saves(
    recipe: Recipe,
    token: str | None,
    created: float | None = None,
    *,
    waits: Sequence[float] = WAITS,
) -> None:
    """Make sure that copies of a run could be pushed, before it begins. Nothing is made.

    Args:
        token: Of who starts it.
        created: When the run was made, of one that is resumed: the repo may hold its copy.

    Raises:
        RecipeError: Every problem of the target. Nothing is asked where no copies are wanted.
    """
    if not recipe.push_every_save:
        return
    try:
        own_target(recipe, token, created, waits)
    except HubError as error:
        raise RecipeError(
            [f"{problem} Or set push_every_save to false." for problem in error.problems]
        ) from None


def own_target(
    recipe: Recipe, token: str | None, created: float | None, waits: Sequence[float] = WAITS
) -> Target:
    """The repo of a run's copies, with the yes to replacing this run's earlier ones.

    Raises:
        HubError: It cannot be pushed to, is public, or holds something else.
    """
    target = Target(recipe.hub_model_id or "", private=True)
    try:
        facts = check_target(target, token, waits=waits)
    except HubError as error:
        ours = [problem.replace(", or push publicly on purpose", "") for problem in error.problems]
        raise HubError(ours) from None
    if facts.needs_yes and (created is None or _copy_of(target, token, waits) != created):
        raise HubError(
            f"{target.repo} exists and holds something other than this run, and copies at every "
            "save need a repo of their own. Set hub_model_id to a name that is free."
        )
    return replace(target, overwrite=target.repo)


def _copy_of(target: Target, token: str | None, waits: Sequence[float]) -> float | None:
    """When the run was created whose copy a repo holds; None where it holds none."""
    from huggingface_hub.errors import EntryNotFoundError

    api = hub_api(token)
    with tempfile.TemporaryDirectory(prefix="tuner-push-") as aside:

        def fetch() -> str:
            return str(api.hf_hub_download(target.repo, f"{FOLDER}/{MANIFEST}", local_dir=aside))

        with hub_sentences("look at", target.repo):
            try:
                path = patiently(fetch, waits)
            except EntryNotFoundError:
                return None
        return read_manifest(Path(path), target.repo).created
