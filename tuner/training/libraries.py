"""
The libraries that training takes, imported in as little time as may be.

Imports are most of a cold start: they run on one core, and threads cannot share them. Two things
shorten them, measured in docs/EXPERIMENTS.md. Python's garbage collector looks through all objects
again and again while a million of them come to stay, so it pauses. And bitsandbytes, which peft
imports wherever it is installed, imports PyTorch's compiler: it is left out of a run of the
practice model without quantization and 8-bit optimizer.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from tuner.base_models.lookup import STARTER
from tuner.device import this_device
from tuner.recipe import Recipe

TRAINING = "tuner.training.run"
# Found out while a run is at work, by trl's and transformers' own lazy imports.
LATER = ("trl.trainer.sft_trainer", "transformers.models.llama.modeling_llama")
BITSANDBYTES = "bitsandbytes"


def import_for(recipe: Recipe) -> None:
    """Import what training by this recipe takes."""
    with _collector_paused():
        if not needs_bitsandbytes(recipe):
            # Whoever asks for it in this process finds that it is not installed.
            sys.modules.setdefault(BITSANDBYTES, None)  # type: ignore[arg-type]
        import_module(TRAINING)


def import_for_any_run() -> None:
    """Import what can be imported before there is a run, without touching a GPU."""
    with _collector_paused():
        if this_device().kind == "cuda":  # bitsandbytes asks each card for its properties
            for name in (
                "torch",
                "datasets",
                "transformers.modeling_utils",
                "transformers.trainer",
            ):
                import_module(name)
            return
        for name in (TRAINING, *LATER):
            import_module(name)


def needs_bitsandbytes(recipe: Recipe) -> bool:
    """Whether something of the recipe may be bitsandbytes'.

    Another base than the practice model may be stored as bitsandbytes packs it.
    """
    if recipe.base_model != STARTER:
        return True
    if recipe.quantization != "none" or "8bit" in recipe.optim or "paged" in recipe.optim:
        return True
    return recipe.optim == "auto" and this_device().kind == "cuda"


@contextmanager
def _collector_paused() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what was imported stays: no later collection has to look at it
        gc.enable()
