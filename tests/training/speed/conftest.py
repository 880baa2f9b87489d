"""What makes a hundred trainers of tiny models quick to build, and the reference for all."""

import functools
import gc
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.training.speed.tiny_trainers import ROWS, Step, plain_step, tiny


@pytest.fixture(autouse=True, scope="package")
def two_threads_and_no_search_through_what_was_imported() -> Iterator[None]:
    """Two, so that rows can be shared out; and a trainer collects garbage at its start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Step]:
    """trl's and peft's own step over ROWS, in float32, for a family."""
    folder = tmp_path_factory.mktemp("plain")
    return functools.cache(lambda family: plain_step(tiny(family), ROWS, folder))
