"""
What the page's handlers call: one of each for the process, whoever is looking.

What somebody may do with it is in visit.py; no handler goes past that.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.base_models.lookup import find_base_model
from tuner.chat.client import Chat, chat_client
from tuner.chat.lineup import Lineup, find_lineup
from tuner.device import Device, this_device
from tuner.errors import RunError
from tuner.hub.public_repos import PublicRepos
from tuner.hub.quotas import Limits, Minutes, Questions, read_limits
from tuner.memory.estimate import estimate
from tuner.runs import launch
from tuner.runs.queue import Dispatcher, waiting
from tuner.runs.run import Run
from tuner.runs.store import RunStore
from tuner.service.warming import Warmth
from tuner.service.worker import Worker
from tuner.ui.access import Access, ByRole
from tuner.ui.base_model_view import BaseModels
from tuner.ui.paths import Paths
from tuner.ui.saves import go_on_with_copies
from tuner.ui.visit import Visit

CHAT_LOG = ".chat.log"  # in the runs' folder: what the engine prints


@dataclass
class Services:
    """The engine as the page holds it. Nothing in it belongs to one visitor.

    Attributes:
        worker: The process that reads and tokenizes data.
        paths: What a recipe may name of this machine.
        access: Who may see and change which run.
        limits: What people may use of it who do not own it.
        dispatcher: Starts the runs that wait in line.
        warmth: Has the imports of the next run's process done beforehand.
        device: The hardware, for words; what is free of it is asked anew for each estimate.
    """

    store: RunStore
    paths: Paths
    worker: Worker = field(default_factory=Worker)
    models: BaseModels = field(default_factory=BaseModels)
    access: Access = field(default_factory=ByRole)
    limits: Limits = field(default_factory=read_limits)
    public_repos: PublicRepos = field(default_factory=PublicRepos)
    device: Device = field(default_factory=this_device)
    dispatcher: Dispatcher = field(init=False)
    warmth: Warmth = field(init=False)
    chat: Chat = field(init=False)
    questions: Questions = field(init=False)
    minutes: Minutes = field(init=False)
    _scratch: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="tuner-page-")
    )

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.store, before_start=self.before_start)
        self.warmth = Warmth(self.store)
        self.chat = chat_client(self.store.root / CHAT_LOG)
        self.questions = Questions(self.limits)
        self.minutes = Minutes(self.store, self.limits, launch.stop)

    @classmethod
    def of(cls, store: RunStore, *, open_to_others: bool = False) -> "Services":
        """The services of one folder of runs."""
        return cls(store, Paths(store.root, any_path=not open_to_others))

    def visit(self, request: Any) -> Visit:
        """The services as the person behind a request may use them.

        Args:
            request: Gradio's, or the HTTP request itself.
        """
        return Visit(self, request)

    def begin(self) -> None:
        """Take up the line where it was left, and get the helper process ready."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        self.dispatcher.start()
        self.minutes.start()
        self.worker.warm()
        self.warmth.start()

    def before_start(self, run: Run) -> None:
        """What is done in the page's process just before a run's turn comes.

        Raises:
            TunerError: The run's recipe or base model cannot be used.
        """
        go_on_with_copies(run)
        self.make_room(run)

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
        """Who answers for a run, or for an adapter by its folder or Hub id; for the page's owner.

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
        """Let go of the threads and the helper processes. Runs go on."""
        self.dispatcher.close()
        self.warmth.close()
        self.minutes.close()
        self.worker.close()
        self.chat.close()
        self._scratch.cleanup()
