"""A Hub on this machine that serves a tiny model, and an empty cache to download it into."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.hub_server import Hub, serving
from tests.tiny_models import tiny_model


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def hub(llama, cache, tmp_path, monkeypatch) -> Iterator[Hub]:
    with serving(Path(shutil.copytree(llama, tmp_path / "served")), monkeypatch) as server:
        yield server
