"""What all trainers of tiny models are compared with, and the threads they have."""

import functools
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.training.speed.tiny_trainers import ROWS, Step, plain_step, tiny


@pytest.fixture(autouse=True, scope="package")
def two_threads() -> Iterator[None]:
    """So that rows can be shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Step]:
    """trl's and peft's own step over ROWS, in float32, for a family."""
    folder = tmp_path_factory.mktemp("plain")
    return functools.cache(lambda family: plain_step(tiny(family), ROWS, folder))
