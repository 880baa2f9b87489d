"""What the page's handlers call: one of each for the process, whoever is looking."""

from dataclasses import dataclass, field

from tuner.device import Device, this_device
from tuner.runs.queue import Dispatcher, waiting
from tuner.runs.store import RunStore
from tuner.service.worker import Worker
from tuner.ui.access import Access, Everyone
from tuner.ui.base_model_view import BaseModels


@dataclass
class Services:
    """The engine as the page holds it. Nothing in it belongs to one visitor.

    Attributes:
        worker: The process that reads and tokenizes data.
        dispatcher: Starts the runs that wait in line.
        device: The hardware, for words; what is free of it is asked anew for each estimate.
    """

    store: RunStore
    dispatcher: Dispatcher
    worker: Worker = field(default_factory=Worker)
    models: BaseModels = field(default_factory=BaseModels)
    access: Access = field(default_factory=Everyone)
    device: Device = field(default_factory=this_device)

    @classmethod
    def of(cls, store: RunStore) -> "Services":
        """The services of one folder of runs."""
        return cls(store, Dispatcher(store))

    def begin(self) -> None:
        """Take up the line where it was left, and get the helper process ready."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        self.dispatcher.start()
        self.worker.warm()

    def line(self) -> list[str]:
        """The ids of the runs that wait for their turn, the next one first."""
        return [run.id for run in waiting(self.store)]

    def end(self) -> None:
        """Let go of the threads and the helper process. Runs go on."""
        self.dispatcher.close()
        self.worker.close()
