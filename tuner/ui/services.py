"""What the page's handlers call: one of each for the process, whoever is looking."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tuner.base_models.lookup import find_base_model
from tuner.chat.client import ChatClient
from tuner.chat.lineup import Lineup, find_lineup
from tuner.device import Device, this_device
from tuner.errors import RecipeError, RunError
from tuner.memory.estimate import estimate
from tuner.recipe import Recipe
from tuner.runs.queue import Dispatcher, waiting
from tuner.runs.run import Run
from tuner.runs.store import RunStore
from tuner.service.worker import Worker
from tuner.ui.access import Access, Everyone
from tuner.ui.base_model_view import BaseModels
from tuner.ui.draft import Draft, read_draft, require_recipe
from tuner.ui.paths import Paths

CHAT_LOG = ".chat.log"  # in the runs' folder: what the engine prints


@dataclass
class Services:
    """The engine as the page holds it. Nothing in it belongs to one visitor.

    Attributes:
        worker: The process that reads and tokenizes data.
        paths: What a recipe may name of this machine.
        dispatcher: Starts the runs that wait in line.
        device: The hardware, for words; what is free of it is asked anew for each estimate.
    """

    store: RunStore
    paths: Paths
    worker: Worker = field(default_factory=Worker)
    models: BaseModels = field(default_factory=BaseModels)
    access: Access = field(default_factory=Everyone)
    device: Device = field(default_factory=this_device)
    dispatcher: Dispatcher = field(init=False)
    chat: ChatClient = field(init=False)
    _scratch: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="tuner-page-")
    )

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.store, before_start=self.make_room)
        self.chat = ChatClient(self.store.root / CHAT_LOG)

    @classmethod
    def of(cls, store: RunStore, *, open_to_others: bool = False) -> "Services":
        """The services of one folder of runs."""
        return cls(store, Paths(store.root, any_path=not open_to_others))

    def read(self, text: str) -> Draft:
        """A draft, with what this page refuses among its problems."""
        found = read_draft(text)
        refused = self.paths.problems(found.recipe) if found.recipe else []
        return Draft(found.values, None, refused) if refused else found

    def require(self, text: str) -> Recipe:
        """The recipe of a draft that may be used here.

        Raises:
            RecipeError: Everything that is wrong with it.
        """
        recipe = require_recipe(text)
        if refused := self.paths.problems(recipe):
            raise RecipeError(refused)
        return recipe

    def begin(self) -> None:
        """Take up the line where it was left, and get the helper process ready."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        self.dispatcher.start()
        self.worker.warm()

    def make_room(self, run: Run) -> None:
        """Give back the playground's memory where a run that begins needs it.

        On a GPU it always does: a second process beside training costs more than loading again.

        Raises:
            TunerError: The run's recipe or base model cannot be used.
        """
        if not self.chat.is_loaded():
            return
        recipe = run.recipe()
        base = find_base_model(recipe.base_model, recipe.revision)
        fits = estimate(recipe, base, this_device()).verdict == "fits"
        if not fits or self.device.kind == "cuda":
            self.chat.unload()

    def lineup(self, name: str) -> Lineup:
        """Who answers for a run, or for an adapter by its folder or Hub id.

        Raises:
            TunerError: Nobody does, or the page may not show its machine's folders.
        """
        if refused := self.paths.folder_problems(name):
            raise RunError(refused)
        return find_lineup(name, self.store)

    def scratch_file(self, name: str) -> Path:
        """A new path for a file that somebody downloads at once; gone with the page."""
        return Path(tempfile.mkdtemp(dir=self._scratch.name)) / name

    def line(self) -> list[str]:
        """The ids of the runs that wait for their turn, the next one first."""
        return [run.id for run in waiting(self.store)]

    def end(self) -> None:
        """Let go of the threads and the helper process. Runs go on."""
        self.dispatcher.close()
        self.worker.close()
        self.chat.close()
        self._scratch.cleanup()
