"""
The page's services as one person may use them: what every handler asks before it does anything.

    visit = services.visit(request)
    run = visit.run(run_id)              may be seen; else it does not exist
    run = visit.own_run(run_id)          may be changed
    recipe = visit.require(text)         names nothing that this person must not read

On a page that is one's own all of it says yes. Whoever is not an owner reads no file of the
machine but the presets' data and their own uploads, and nothing of the Hub that is not public.
Not covered: who somebody is (tuner/hub/identity.py), whose a run is (access.py).
"""

from collections.abc import Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.base_models.lookup import STARTER
from tuner.chat.lineup import Lineup, find_lineup, lineup_of_run
from tuner.chat.voices import Sampling
from tuner.checks import check_before_start, look_at_data
from tuner.data.sources import local_path
from tuner.errors import ChatError, DatasetError, RecipeError, RunError
from tuner.hub.identity import Person, Role, address_of
from tuner.presets import PRESETS_DIR, load_preset, preset_names
from tuner.recipe import Recipe
from tuner.runs.run import Run
from tuner.service.previewing import hand_over
from tuner.service.run_documents import enqueue_document
from tuner.service.worker import Worker
from tuner.ui.access import http_request, person
from tuner.ui.base_model_view import BaseModels
from tuner.ui.draft import Draft, read_draft, require_recipe
from tuner.ui.saves import require_copies, start_copies
from tuner.ui.uploads import is_upload_of, keep_uploads

if TYPE_CHECKING:
    from tuner.ui.services import Services

ONLY_OWNERS = "Only who runs this page may do that."
NO_TRAINING = (
    "On this page only its owner trains. Duplicate the Space, or run Tuner on a machine of your "
    "own, to train your own models."
)
SHOWN_CHARACTERS = 200


class Visit:
    """One request, and what the person behind it may do."""

    def __init__(self, services: "Services", request: Any):
        self._services, self.request = services, http_request(request)

    @cached_property
    def person(self) -> Person:
        return person(self.request)

    @property
    def is_owner(self) -> bool:
        return self._services.access.is_owner(self.request)

    @property
    def worker(self) -> Worker:
        return self._services.worker

    @property
    def models(self) -> BaseModels:
        return self._services.models

    # Runs.

    def sees(self, run: Run) -> bool:
        return self._services.access.may_see(self.request, run)

    def changes(self, run: Run) -> bool:
        return self._services.access.may_change(self.request, run)

    def run(self, run_id: str | None) -> Run:
        """The run of this id or name, among those that this person may see.

        Raises:
            RunError: There is none for them.
        """
        return self._services.store.get(run_id or "", self.sees)

    def own_run(self, run_id: str | None) -> Run:
        """As `run`, where this person may also change it.

        Raises:
            RunError: There is none, or it may only be looked at.
        """
        run = self.run(run_id)
        if not self.changes(run):
            raise RunError(f"Run {run.id} is not yours: you may look at it, and talk to it.")
        return run

    def runs(self) -> list[Run]:
        """The runs that this person may see, newest first."""
        return [run for run in self._services.store.list() if self.sees(run)]

    # Training.

    @property
    def may_train(self) -> bool:
        return self.is_owner or self._services.limits.may_train(self.person)

    def require_owner(self) -> None:
        """Raises RunError for everybody else."""
        if not self.is_owner:
            raise RunError(ONLY_OWNERS)

    def require_training(self) -> None:
        """Let this person put a run in line.

        Raises:
            RunError: They may not train here, or have used up what they may.
        """
        if not self.may_train:
            raise RunError(NO_TRAINING)
        if not self.is_owner:
            self._services.minutes.require(self.person)

    def start(self, recipe: Recipe, name: str | None = None) -> dict[str, Any]:
        """Make a run of a checked recipe and put it in line.

        Args:
            recipe: As `require` returned it.

        Raises:
            TunerError: It cannot be begun, or not by this person.
        """
        self.require_training()
        services = self._services
        self.worker.call(check_before_start, recipe, services.store.root, name)
        if not self.is_owner and recipe.dataset.max_rows is None:
            self._require_few_rows(recipe)
        require_copies(self.person, recipe)
        run = enqueue_document(
            services.store,
            recipe,
            name,
            self.person.name,
            hand_over=partial(self.worker.call, hand_over),
        )
        start_copies(self.person, services.store.get(run["run"]))
        services.dispatcher.wake()
        return run

    def require_resuming(self, run: Run) -> None:
        """Let this person put a run of theirs in line again.

        Raises:
            TunerError: They may not train now, or its copies could not be pushed.
        """
        self.require_training()
        require_copies(self.person, run.recipe(), run.status()["created"])

    # Recipes and files.

    def read(self, text: str) -> Draft:
        """A draft, with what is refused to this person among its problems."""
        found = read_draft(text)
        refused = self.problems(found.recipe) if found.recipe else []
        return Draft(found.values, None, refused) if refused else found

    def require(self, text: str) -> Recipe:
        """The recipe of a draft that this person may use.

        Raises:
            RecipeError: Everything that is wrong with it.
        """
        recipe = require_recipe(text)
        if refused := self.problems(recipe):
            raise RecipeError(refused)
        return recipe

    def problems(self, recipe: Recipe) -> list[str]:
        """Why this person may not use a recipe here, a sentence each."""
        if self.is_owner:
            return self._services.paths.problems(recipe)
        found = [self._base_problem(recipe.base_model), self._data_problem(recipe)]
        most = self._services.limits.max_rows
        if (recipe.dataset.max_rows or 0) > most:
            found.append(
                f"dataset.max_rows={recipe.dataset.max_rows} is more than the {most:,} rows that "
                f"a run may have here. Set it to {most} or less."
            )
        return [problem for problem in found if problem]

    def keep_uploads(self, files: Sequence[str | Path]) -> Path:
        """Keep uploaded files where this person's runs, and no others, can read them.

        Raises:
            DatasetError: They may not train here; or as uploads.keep_uploads.
        """
        if not self.may_train:
            raise DatasetError(NO_TRAINING)
        owner = None if self.is_owner else self.person.name
        return keep_uploads(files, self._services.store.root, owner)

    # The playground.

    def lineup(self, name: str) -> Lineup:
        """Who answers for a run, or for an adapter by its folder or Hub id.

        Raises:
            TunerError: Nobody does, or not for this person.
        """
        services = self._services
        if self.is_owner:
            return services.lineup(name)
        try:
            return lineup_of_run(self.run(name))
        except RunError:
            if not self.may_train or "/" not in name or local_path(name) is not None:
                raise
        if problem := services.public_repos.problem(name, "model"):
            raise RunError(problem)
        found = find_lineup(name, services.store)
        # An adapter may name any base, also one that only this machine's login may read.
        if problem := self._base_problem(found.base.model):
            raise RunError(problem)
        return found

    def count_question(self, sampling: Sampling | None = None) -> None:
        """Count a question, if this person may ask one now.

        Raises:
            ChatError: It asks for too much, or comes too early.
        """
        tokens = sampling.max_new_tokens if sampling else 0
        if not self.is_owner:
            self._services.questions.count(self.person, address_of(self.request), tokens)

    @property
    def voter(self) -> str | None:
        """As whom this person votes.

        Raises:
            ChatError: They have not signed in.
        """
        if not self.is_owner and self.person.role is Role.VISITOR:
            raise ChatError("Only people who signed in may vote. Sign in at the top of the page.")
        return self.person.name

    def _require_few_rows(self, recipe: Recipe) -> None:
        most = self._services.limits.max_rows
        size = self.worker.call(look_at_data, recipe)
        if size is None or size.train_rows > most:
            raise DatasetError(
                f"This data has more than the {most:,} rows that a run may have here. Set "
                f"dataset.max_rows to {most} to train on so many, drawn at random."
            )

    def _base_problem(self, name: str) -> str | None:
        if name == STARTER or name in offered_by_presets()[0]:
            return None
        if not self.may_train:
            return f"base_model={name[:SHOWN_CHARACTERS]} cannot be looked up. {NO_TRAINING}"
        if local_path(name) is not None or name.startswith((".", "/", "~")):
            return (
                f"base_model={name[:SHOWN_CHARACTERS]} is a path. Choose the built-in model or a "
                "Hub id."
            )
        problem = self._services.public_repos.problem(name, "model")
        return f"base_model={name[:SHOWN_CHARACTERS]}: {problem}" if problem else None

    def _data_problem(self, recipe: Recipe) -> str | None:
        source, root = recipe.dataset.source, self._services.store.root
        if not source or source in offered_by_presets()[1]:
            return None
        named = local_path(source) if recipe.dataset.kind != "hub" else None
        if named is not None and _is_inside(named, PRESETS_DIR):
            return None
        told = f"dataset.source={source[:SHOWN_CHARACTERS]} cannot be read."
        if not self.may_train:
            return f"{told} {NO_TRAINING}"
        if named is not None and is_upload_of(named, root, self.person.name):
            return None
        from tuner.data.hub import hub_id  # imports the Hub's client, which the page seldom needs

        repo = hub_id(source) if recipe.dataset.kind in ("hub", "auto") else None
        # The same sentence whether there is such a file or not: that is not theirs to know.
        if named is not None or repo is None:
            return f"{told} Upload the file, or give a Hub dataset."
        problem = self._services.public_repos.problem(repo, "dataset")
        return f"dataset.source={source[:SHOWN_CHARACTERS]}: {problem}" if problem else None


@cache
def offered_by_presets() -> tuple[frozenset[str], frozenset[str]]:
    """Base models and Hub data sets that the presets name: public, and looked up for everybody."""
    abouts = [load_preset(name).about for name in preset_names()]
    tiers = [tier.settings for about in abouts for tier in about.hardware.values()]
    bases = frozenset(str(one["base_model"]) for one in tiers if "base_model" in one)
    return bases, frozenset(one.id for about in abouts for one in about.hub_datasets)


def _is_inside(path: Path, folder: Path) -> bool:
    return path.expanduser().resolve().is_relative_to(folder.resolve())
