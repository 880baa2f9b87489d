"""
What every test can rely on: no network, and nothing of the person's own.

A test that wants a Hub serves one on this machine. Child processes inherit the environment but not
the guard: the Hub's address is one where nobody answers, so they see a machine without internet.
"""

import gc
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before any test imports a Hugging Face library: they read these once, at import.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="tuner-tests-hf-")
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GOMP_SPINCOUNT"] = "1000"  # tests and the runs they start share two cores
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
os.environ["TUNER_SPARE"] = "0"  # no page of the tests keeps a process for a run that never comes
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "TUNER_RUNS_DIR"):
    os.environ.pop(name, None)

# A shell starts what runs in the background deaf to Ctrl-C, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

# What child processes import at their start: several files of one name, and no tests.
collect_ignore_glob = ["*/sitecustomize.py"]

REPOSITORY = Path(__file__).parents[1]
HERE = {"127.0.0.1", "::1", "localhost"}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Import all tests without looking for garbage among a million objects that come to stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="module")
def imports_are_set_aside() -> None:
    """Each trainer and each model that is let go of collects garbage: not through all libraries."""
    if not gc.get_freeze_count():  # a test may have thawed them
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def nothing_leaves_this_machine() -> Iterator[None]:
    """Refuse connections to other machines: a test that makes one is wrong, not slow."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in HERE:
            raise AssertionError(f"A test tried to reach {address[0]}.")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield


@pytest.fixture
def repository() -> Path:
    """The folder of the repository, where the presets' own paths begin."""
    return REPOSITORY
