"""
The base model, loaded and hashed in a thread while rows are read and tokenized.

    ahead = LoadingAhead()
    prepare(…, base_known=ahead.begin)
    loaded = ahead.loaded(stop)         waits for it; None where nothing was begun

What goes wrong is raised by `loaded`, so that people are told of their data first, as ever. Reading
weights, copying and hashing them leave Python free for the tokenizer. Not covered: a base that must
be downloaded, or whose weights are much of the free memory; both are loaded after the data.
"""

import threading
from typing import Any, NamedTuple

from tuner.base_models.lookup import BaseModel
from tuner.data.chat_template import no_template_runs
from tuner.device import this_device
from tuner.models.loading import base_dtype, load_base, training_device
from tuner.recipe import Recipe
from tuner.training.callbacks import StopRequest, heed
from tuner.training.model import hash_base_weights

SHARE = 0.25  # of the free memory: rows need some, too
POLL_SECONDS = 0.1
LOADING = "loading"


class Loaded(NamedTuple):
    """A base model, the hash of its weights, and the memory that these take in bytes."""

    model: Any
    hash: str
    weight_bytes: int


def load(recipe: Recipe, base: BaseModel, dtype: Any, device: Any) -> Loaded:
    """Load a base model and hash its weights.

    Raises:
        ModelError: The weights cannot be loaded.
    """
    model = load_base(recipe, base, dtype, device)
    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    return Loaded(model, hash_base_weights(model), weight_bytes)


def is_loading() -> bool:
    """Whether some base is still being loaded in this process."""
    return any(thread.name == LOADING for thread in threading.enumerate())


class LoadingAhead:
    """At most one base model on its way."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._loaded: Loaded | None = None
        self._error: BaseException | None = None

    def begin(self, recipe: Recipe, base: BaseModel) -> None:
        """Start loading, if there is room for it beside the rows; returns at once."""
        hardware = this_device()
        if base.weight_bytes > SHARE * hardware.available_bytes:
            return
        device = training_device()
        dtype = base_dtype(recipe, device, hardware.bf16)
        self._thread = threading.Thread(
            target=self._load, args=(recipe, base, dtype, device), name=LOADING
        )
        self._thread.start()

    def loaded(self, stop: StopRequest) -> Loaded | None:
        """The model, given away; None where none was begun.

        Raises:
            ModelError: The weights cannot be loaded.
            StoppedBeforeTraining: Asked to stop.
        """
        if self._thread is None:
            return None
        while self._thread.is_alive():
            heed(stop)
            self._thread.join(POLL_SECONDS)
        if self._error:
            raise self._error
        loaded, self._loaded = self._loaded, None
        return loaded

    def _load(self, *what: Any) -> None:
        try:
            with no_template_runs():  # its limit of memory is the whole process's
                self._loaded = load(*what)
        except BaseException as error:  # noqa: BLE001 (for who asks for the model)
            self._error = error
