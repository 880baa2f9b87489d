"""
A Hub dataset: the real client against a Hub on this machine, for what the Hub refuses.

Downloading needs more of the Hub than can be served here, so `load_dataset` alone is replaced: by
one that reads a dataset from disk, or fails as the real one does.
"""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import datasets
import huggingface_hub.constants
import pytest
from datasets import Dataset, Features, Image, Value
from datasets.exceptions import DatasetNotFoundError

from tests.data.written import ROWS, write_jsonl
from tuner.data.prepare import prepare_dataset
from tuner.data.sources import open_source
from tuner.errors import DatasetError
from tuner.recipe import DatasetSettings

COMMIT = "4f9cbd2c7a2f1f6d7c30e1b9a5d86a4b1f6c9d01"
INFO = {
    "_id": "1",
    "id": "shop/support",
    "sha": COMMIT,
    "private": False,
    "gated": False,
    "disabled": False,
    "downloads": 1,
    "likes": 0,
    "tags": [],
    "siblings": [],
    "cardData": {"license": "cc-by-nc-4.0"},
}


class Hub(BaseHTTPRequestHandler):
    """Answers every request alike."""

    status = 200
    code = ""
    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Hub.paths.append(self.path)
        body = json.dumps(INFO if Hub.status == 200 else {"error": "no"}).encode()
        self.send_response(Hub.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if Hub.code:
            self.send_header("X-Error-Code", Hub.code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(
        huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}"
    )
    Hub.status, Hub.code, Hub.paths = 200, "", []
    yield Hub
    server.shutdown()
    server.server_close()


def loads(monkeypatch, result) -> list[dict]:
    """Replace load_dataset; returns the calls it gets."""
    calls: list[dict] = []

    def load_dataset(path, **given):
        calls.append({"path": path, **given})
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def opened(**settings):
    return open_source(DatasetSettings(source="shop/support", **settings), token="hf_secret")


def sentence(**settings) -> str:
    with pytest.raises(DatasetError) as error:
        opened(**settings)
    [problem] = error.value.problems
    assert "hf_secret" not in problem
    return problem


def test_a_dataset_is_read_at_the_commit_that_its_revision_names(hub, monkeypatch, tmp_path):
    saved = tmp_path / "saved"
    Dataset.from_list(ROWS).save_to_disk(saved)
    calls = loads(monkeypatch, datasets.load_from_disk(saved))
    source = opened(config="de", split="train[:50%]", revision="main")
    assert [row.values for row in source] == ROWS
    assert [row.line for row in source][:2] == [1, 2]
    assert (source.revision, source.license) == (COMMIT, "cc-by-nc-4.0")
    assert source.description == "shop/support, configuration de, split train[:50%]"
    assert hub.paths == ["/api/datasets/shop/support/revision/main"]
    assert calls == [
        {
            "path": "shop/support",
            "name": "de",
            "split": "train[:50%]",
            "revision": COMMIT,
            "token": "hf_secret",
            "cache_dir": None,
        }
    ]


def test_a_prepared_hub_dataset_names_commit_and_licence_and_warns_of_nc(
    hub, monkeypatch, tmp_path
):
    loads(monkeypatch, Dataset.from_list(ROWS))
    dataset = DatasetSettings(source="https://huggingface.co/datasets/shop/support")
    report = prepare_dataset(dataset, "sft", tmp_path / "data", token="hf_secret")
    assert (report["revision"], report["license"]) == (COMMIT, "cc-by-nc-4.0")
    assert "forbids commercial use" in report["warnings"][0]
    for path in (tmp_path / "data").iterdir():
        assert b"hf_secret" not in path.read_bytes()


def test_pictures_are_left_aside(hub, monkeypatch):
    features = Features({"q": Value("string"), "picture": Image()})
    loads(monkeypatch, Dataset.from_dict({"q": ["Q"], "picture": [None]}, features=features))
    assert [row.values for row in opened()] == [{"q": "Q"}]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "There is no dataset shop/support on the Hub, or it is private"),
        (401, "RepoNotFound", "There is no dataset shop/support on the Hub, or it is private"),
        (403, "GatedRepo", "shop/support is gated"),
        (404, "RevisionNotFound", "shop/support has no revision v2"),
        (401, "", "does not let this account read shop/support (401)"),
        (403, "", "does not let this account read shop/support (403)"),
        (429, "", "asks to slow down"),
        (500, "", "failed to answer for shop/support (500)"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(hub, monkeypatch, status, code, said):
    loads(monkeypatch, AssertionError("must not be asked"))
    hub.status, hub.code = status, code
    assert said in sentence(revision="v2", kind="hub")


LOADING = {
    "gated": (
        DatasetNotFoundError("Dataset 'shop/support' is a gated dataset on the Hub. Visit …"),
        "https://huggingface.co/datasets/shop/support",
    ),
    "configurations": (
        ValueError(
            "Config name is missing.\nPlease pick one among the available configs: ['de', 'en']\n"
        ),
        "and it has several. Set dataset.config to one of ['de', 'en']",
    ),
    "split": (
        ValueError("Unknown split \"train\". Should be one of ['dev', 'test']."),
        "has no split train. Set dataset.split to one of ['dev', 'test']",
    ),
    "script": (
        RuntimeError("Dataset scripts are no longer supported, but found support.py"),
        "cannot be read as a table: Dataset scripts are no longer supported",
    ),
}


@pytest.mark.parametrize("name", LOADING)
def test_what_datasets_refuses_is_a_sentence(hub, monkeypatch, name):
    error, said = LOADING[name]
    loads(monkeypatch, error)
    assert said in sentence(kind="hub")


def test_a_configuration_that_does_not_exist_names_those_that_do(hub, monkeypatch):
    loads(monkeypatch, ValueError("BuilderConfig 'fr' not found. Available: ['de', 'en']"))
    said = "shop/support has no configuration called fr. Set dataset.config to one of ['de', 'en']"
    assert said in sentence(kind="hub", config="fr")


def test_a_connection_that_breaks_off_is_a_sentence(hub, monkeypatch):
    loads(monkeypatch, ConnectionError("Couldn't reach the Hub"))
    assert "the connection to the Hub broke off" in sentence(kind="hub")


def test_without_a_connection_the_sentence_says_so_and_what_to_do():
    said = sentence()
    assert "shop/support cannot be downloaded: the Hub cannot be reached (no connection)" in said
    assert "give a local file as dataset.source" in said
    assert "There is no file or folder of that name either" in said


def test_offline_mode_is_named_as_the_reason(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is on, HF_HUB_OFFLINE" in sentence(kind="hub")


@pytest.fixture
def cache(tmp_path) -> Path:
    """What `datasets` leaves of a download, made from a file and put under the dataset's name."""
    rows = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    made = datasets.load_dataset_builder("json", data_files=str(rows), cache_dir=str(tmp_path))
    made.download_and_prepare()
    folder = tmp_path / "cache" / "shop___support" / "default" / "0.0.0" / COMMIT
    shutil.copytree(made.cache_dir, folder)
    (folder / "json-train.arrow").rename(folder / "support-train.arrow")
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {"config_name": "default", "dataset_name": "support"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path / "cache"


def test_without_a_connection_what_was_downloaded_before_is_read_and_that_is_said(cache):
    source = open_source(DatasetSettings(source="shop/support"), cache_dir=cache)
    assert [row.values for row in source] == ROWS
    assert source.revision == COMMIT
    assert source.notes == [
        "shop/support: the Hub cannot be reached (no connection); this machine's copy is read."
    ]


def test_a_copy_of_another_revision_or_split_is_never_read_instead(cache):
    for settings, said in (
        ({"revision": COMMIT[::-1]}, f"this machine's copy is revision {COMMIT}, not"),
        ({"revision": "v2"}, f"this machine's copy is revision {COMMIT}, not v2"),
        ({"split": "test"}, "has no split test"),
        ({"config": "de"}, "this machine has no copy"),
    ):
        with pytest.raises(DatasetError, match=said):
            open_source(DatasetSettings(source="shop/support", **settings), cache_dir=cache)
    same = DatasetSettings(source="shop/support", revision=COMMIT)
    assert len(list(open_source(same, cache_dir=cache))) == 40


def test_a_folder_of_the_same_name_is_never_read_instead_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop" / "support").mkdir(parents=True)
    assert "a folder shop/support lies here" in sentence(kind="hub")


def test_an_impossible_id_is_a_sentence():
    with pytest.raises(DatasetError, match="is not a Hub dataset id"):
        open_source(DatasetSettings(source="just-a-name", kind="hub"))
    with pytest.raises(DatasetError, match="is not a possible Hub id"):
        open_source(DatasetSettings(source="shop/support..rows", kind="hub"))
