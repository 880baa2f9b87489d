"""
Nothing that somebody writes as an id, a revision or a file makes the server ask another host than
the Hub, or the Hub for something else than was named.
"""

import json
import socket
from pathlib import Path

import datasets.config
import huggingface_hub.constants
import pytest

from tests.attacks.dataset_hub import serving
from tests.chat.runs import adapter_files
from tests.hub_server import serving as serving_model
from tuner.base_models.lookup import find_base_model
from tuner.chat.lineup import lineup_of_adapter
from tuner.data.sources import open_source
from tuner.errors import DatasetError, ModelError, TunerError
from tuner.recipe import DatasetSettings

METADATA = "http://169.254.169.254/latest/meta-data"
IDS = [
    METADATA,
    "https://169.254.169.254",
    "//169.254.169.254/x",
    "file:///etc/passwd",
    "hf://../../x/y",
    "ftp://127.0.0.1/x",
    "user/../../api/whoami-v2",
    "user/..",
    "../user",
    "user/name?revision=x",
    "user/name#fragment",
    "user@169.254.169.254/name",
    "user:pass@host/name",
    "user/name%2f..%2f..",
    "user\\..\\name",
    "user/na me",
    "user/name\r\nHost: 169.254.169.254",
    "user/name\0",
    "user/" + "n" * 5000,
    "ｕser／name",
    "user/\u202egnp.exe",
    "user\u2044name",
]
REVISIONS = ["../../../whoami-v2", "main?x=1", "main#x", METADATA, "a\r\nb", "%2e%2e", "//host"]


@pytest.fixture(autouse=True)
def _nobody_signed_in(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(monkeypatch):
    with serving() as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def spoken_to(monkeypatch, hub):
    """Hosts and ports that anything connected to, or asked the address of; the Hub's left out."""
    found, connect, resolve = [], socket.socket.connect, socket.getaddrinfo
    ours = ("127.0.0.1", hub.server_port)

    def connected(self, address):
        if address != ours:
            found.append(address)
            raise ConnectionRefusedError
        return connect(self, address)

    def resolved(host, port, *more, **options):
        if (host, port) != ours:
            found.append((host, port))
            raise socket.gaierror
        return resolve(host, port, *more, **options)

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return found


def base_model(name):
    find_base_model(name)


def dataset(name):
    open_source(DatasetSettings(source=name))


def hub_dataset(name):
    open_source(DatasetSettings(source=name, kind="hub"))


def adapter(name):
    lineup_of_adapter(name)


@pytest.mark.parametrize("open_it", [base_model, dataset, hub_dataset, adapter])
@pytest.mark.parametrize("name", IDS, ids=lambda name: ascii(name)[:40])
def test_what_is_no_id_asks_nobody_but_perhaps_the_hub_for_that_name(hub, spoken_to, open_it, name):
    with pytest.raises(TunerError) as refused:
        open_it(name)
    assert "Traceback" not in str(refused.value)
    assert spoken_to == []
    for path in hub.asked:  # a name that could be one, with its letters escaped
        assert path.startswith(("/api/models/", "/api/datasets/")), path
        assert not {"..", "?", "#", "@", "\\"} & set(path.replace("?blobs=true", "").split("/"))


@pytest.mark.parametrize("revision", REVISIONS, ids=ascii)
def test_a_revision_stays_in_its_place_of_the_address(hub, spoken_to, revision):
    for look in (
        lambda: find_base_model("shop/bot", revision),
        lambda: lineup_of_adapter("shop/bot", revision),
        lambda: open_source(DatasetSettings(source="shop/bot", kind="hub", revision=revision)),
    ):
        with pytest.raises(TunerError):
            look()
    assert spoken_to == []
    for path in hub.asked:
        kind, name = path.split("/")[2:3], "/".join(path.split("/")[3:5])
        assert kind in (["models"], ["datasets"]) and name == "shop/bot"
        assert path.count("/") == 6 and "?" not in path, path


ELSEWHERE = {
    "a file of this machine": "data_files: {secret}",
    "a file of this machine by its folder": "data_dir: {folder}\n  data_files: secret.csv",
    "a folder of this machine": "data_dir: {folder}",
    "an address": "data_files: {trap}/x.csv",
    "an address in a folder's place": "data_dir: '{trap}'\n  data_files: x.csv",
    "a way out": "data_files: ../../../whoami-v2/x.csv",
    "another's repository": "data_files: hf://datasets/other/private/x.csv",
    "an archive elsewhere": "data_files: 'zip://x.csv::{trap}/x.zip'",
}
ROWS = "prompt,answer\nWhere?,There.\n"


def read(hub, name, configuration):
    hub.files = {"train.csv": ROWS, "README.md": f"---\n{configuration}\n---\n# Rows\n"}
    return [row.values for row in open_source(DatasetSettings(source=name, kind="hub"))]


def test_a_dataset_that_names_its_own_files_is_read(hub, spoken_to):
    own = "configs:\n- config_name: default\n  data_files: train.csv"
    assert read(hub, "shop/own", own) == [{"prompt": "Where?", "answer": "There."}]
    assert spoken_to == []


@pytest.mark.parametrize(("number", "said"), enumerate(ELSEWHERE.values()), ids=ELSEWHERE.keys())
def test_a_dataset_reads_no_file_that_its_page_names_elsewhere(
    hub, spoken_to, tmp_path, number, said
):
    secret = tmp_path / "secret.csv"
    secret.write_text(ROWS.replace("There", "SECRET"))
    with serving() as trap:
        said = said.format(secret=secret, folder=tmp_path, trap=trap.url)
        configuration = f"configs:\n- config_name: default\n  {said}"
        with pytest.raises(DatasetError, match="cannot be read as a table") as refused:
            read(hub, f"shop/number-{number}", configuration)
        assert trap.asked == []
    assert "SECRET" not in str(refused.value)
    assert spoken_to == []
    assert not [path for path in hub.asked if "private" in path or "whoami" in path]


@pytest.mark.parametrize(
    "base",
    [
        "/etc/passwd",
        "../../../../../../../../etc",
        "~/x",
        METADATA,
        "file:///etc",
        "a/b/../../c",
        "..\\..\\x",
    ],
)
def test_an_adapter_of_the_hub_names_no_base_by_a_path_or_an_address(tmp_path, monkeypatch, base):
    folder = adapter_files(tmp_path / "served", base_model_name_or_path=base)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02")
    with serving_model(folder, monkeypatch) as hub:
        with pytest.raises(ModelError, match="Without its base, an adapter cannot answer"):
            lineup_of_adapter("shop/tiny-llama")
        assert not [asked for asked in hub.asked if asked.path.endswith(".bin")]
    kept = [path.name for path in Path(huggingface_hub.constants.HF_HUB_CACHE).rglob("*.bin")]
    assert kept == []


def test_an_adapter_of_the_hub_names_its_base_by_an_id(tmp_path, monkeypatch):
    folder = adapter_files(tmp_path / "served", base_model_name_or_path="org/model")
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    with serving_model(folder, monkeypatch):
        assert lineup_of_adapter("shop/tiny-llama").base.model == "org/model"
