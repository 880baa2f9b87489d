"""One small Hub for all tests of a module, empty for each, and a folder to push to it."""

from pathlib import Path

import huggingface_hub.utils._http as client
import pytest

from tests.small_hub import small_hub
from tuner.hub import api

FAST_CLOCK = Path(__file__).with_name("fast_clock")
TOKEN = "hf_" + "AnnasTokenOf34Letters" + "abcdefghijklm"
CARD = "---\nlicense: apache-2.0\nlibrary_name: peft\n---\n# Support bot\n"


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory):
    with small_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def hub(shared_hub, monkeypatch):
    """A Hub with nothing on it, which this process and its children take for the real one."""
    shared_hub.reset()
    shared_hub.users.clear()
    shared_hub.add_user("anna", TOKEN, orgs={"clinic": "write", "press": "read"})
    shared_hub.use_here(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(FAST_CLOCK))
    monkeypatch.setattr(api, "_answer_seconds", None)
    yield shared_hub
    client.set_client_factory(client.default_client_factory)


@pytest.fixture
def folder(tmp_path):
    """What a push of an adapter holds, in small."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 1000)
    (folder / "data").mkdir()
    (folder / "data" / "report.json").write_text('{"rows": 24}')
    return folder
