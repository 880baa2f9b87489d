"""The client's failures as sentences, its patience, and that the small Hub is like the real one."""

import time

import httpx2
import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.hub.conftest import TOKEN
from tuner.errors import HubError
from tuner.hub.api import LONGEST_WAIT, hub_api, hub_sentences, patiently

REPO = "anna/bot"


@pytest.fixture
def slept(monkeypatch):
    """The seconds that were waited for, without waiting."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def sentence(call):
    with pytest.raises(HubError) as refusal, hub_sentences("look at", REPO):
        call()
    assert len(refusal.value.problems) == 1
    assert TOKEN not in str(refusal.value)
    assert "http://127" not in str(refusal.value), "addresses are of no use to a reader"
    return str(refusal.value)


def info():
    return hub_api(TOKEN).model_info(REPO)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"status": 401}, "does not know this token (401). Make a new one"),
        ({"status": 401, "code": "RepoNotFound"}, "no such repo that this account can see"),
        ({"status": 404, "code": "RevisionNotFound"}, "no such revision"),
        ({"status": 404, "code": "EntryNotFound"}, "a file is missing"),
        ({"status": 403, "code": "GatedRepo"}, "grants access one by one"),
        ({"status": 402, "message": "pay first"}, "refused it (402: pay first)"),
        ({"status": 403, "message": "no room"}, "refused it (403: no room)"),
        ({"status": 409}, "Somebody else is changing it"),
        ({"status": 412}, "It was changed meanwhile"),
        ({"status": 413}, "too large"),
        ({"status": 429}, "asks to slow down (429). Try again in a few minutes."),
        ({"status": 429, "retry_after": 1800}, "Try again in 30 minutes."),
        ({"status": 500}, "out of order (500). Try again later."),
        ({"status": 503}, "out of order (503)"),
        ({"status": 200, "body": b"<html>Sign in to the hotel's wifi</html>"}, "cannot be read"),
        ({"status": 200, "body": b"[]"}, "cannot be read"),
        ({"resets": True}, "the connection to the Hub broke off"),
    ],
    ids=str,
)
def test_every_refusal_of_the_hub_is_one_sentence(hub, fault, said):
    if fault.get("status") == 401 and not fault.get("code"):
        fault = {**fault, "message": "Invalid credentials in Authorization header"}
    hub.fail("GET", f"/api/models/{REPO}", **fault)
    assert said in sentence(info)


def test_a_hub_that_cannot_be_reached_is_a_sentence(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached. Connect to the internet" in sentence(info)


def test_offline_mode_is_a_sentence(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set. Unset it." in sentence(info)


def test_a_hub_that_hangs_times_out(hub):
    hub.fail("GET", "/api/models/", hangs=True)
    hub.fail("HEAD", "", hangs=True)
    assert "did not answer in time" in sentence(lambda: hub_api(TOKEN, 0.2).model_info(REPO))


def test_a_download_that_fails_tells_the_cause_behind_the_clients_own_words(hub):
    hub.fail("GET", "/revision/main", status=500)
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download(REPO, token=TOKEN)
    assert "out of order (500)" in sentence(lambda: snapshot_download(REPO, token=TOKEN))


def test_our_own_sentences_pass_unchanged():
    with pytest.raises(HubError) as refusal, hub_sentences("look at", REPO):
        raise HubError(["one", "two"])
    assert refusal.value.problems == ["one", "two"]


def test_without_a_token_the_machines_own_is_not_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add_repo(REPO, private=False)
    hub_api(None).model_info(REPO)
    assert [asked.token for asked in hub.requests] == [None]
    HfApi().model_info(REPO)
    assert hub.requests[-1].token == TOKEN, "the client itself would send it"


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 429}, {"resets": True}], ids=["500", "429", "reset"]
)
def test_a_call_is_repeated_where_the_hub_is_busy_or_gone(hub, slept, fault):
    hub.add_repo(REPO)
    hub.fail("GET", "/api/models/", times=3, **fault)
    assert patiently(info).id == REPO
    assert slept == [1.0, 2.0, 4.0]


def test_a_call_is_not_repeated_for_ever(hub, slept):
    hub.fail("GET", "/api/models/", status=500)
    with pytest.raises(httpx2.HTTPError):
        patiently(info)
    assert len(hub.requests) == 5
    assert slept == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_repeated(hub, slept, status):
    hub.fail("GET", "/api/models/", status=status)
    with pytest.raises(httpx2.HTTPError):
        patiently(info)
    assert len(hub.requests) == 1


def test_the_hub_is_left_alone_as_long_as_it_asks_within_a_bound(hub, slept):
    hub.add_repo(REPO)
    hub.fail("GET", "/api/models/", status=429, retry_after=30, times=1)
    assert patiently(info).id == REPO
    hub.fail("GET", "/api/models/", status=429, retry_after=int(LONGEST_WAIT) + 1)
    with pytest.raises(httpx2.HTTPError):
        patiently(info)
    assert slept == [30.0]


def test_a_private_repo_does_not_exist_for_strangers(hub):
    hub.add_user("bea", "hf_bea")
    hub.add_repo(REPO)
    assert info().private
    assert "no such repo" in sentence(lambda: hub_api("hf_bea").model_info(REPO))
    assert "no such repo" in sentence(lambda: hub_api(None).model_info(REPO))


def test_a_listing_of_several_pages_is_read_whole(hub):
    hub.add_repo(REPO, {f"part-{n}.json": b"{}" for n in range(5)})
    hub.page_size = 2
    listed = [file.path for file in hub_api(TOKEN).list_repo_tree(REPO, recursive=True)]
    assert listed == sorted(hub.repos[REPO].contents())


def test_files_in_lfs_come_from_the_storage_which_sees_no_token(hub, tmp_path):
    hub.add_repo(REPO, {"a.safetensors": b"weights" * 100, "a.json": b"{}"})
    there = snapshot_download(REPO, token=TOKEN, local_dir=tmp_path / "there")
    assert (tmp_path / "there" / "a.safetensors").read_bytes() == b"weights" * 100, there
    stored = [asked for asked in hub.requests if asked.port == "storage"]
    assert stored and all(asked.token is None for asked in stored)


def test_a_part_of_a_file_is_served(hub):
    hub.add_repo(REPO, {"a.safetensors": b"0123456789"}, private=False)
    url = f"{hub.url}/{REPO}/resolve/main/a.safetensors"
    part = httpx2.get(url, headers={"Range": "bytes=2-4"}, follow_redirects=True)
    assert (part.status_code, part.content) == (206, b"234")
    assert part.headers["Content-Range"] == "bytes 2-4/10"
