"""Pushing a folder, by the real client in the real child process, to a Hub that may fail."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download

from tests.hub.conftest import TOKEN
from tests.small_hub import small_hub
from tuner.errors import HubError
from tuner.hub.push import push_folder
from tuner.hub.target import Target

REPO = "anna/bot"
TARGET = Target(REPO)
YES = Target(REPO, overwrite=REPO)
NOW = (0.0,) * 4
STAGES = ["checking", "hashing", "checking", "uploading", "committing", "verifying"]


def push(folder: Path, target: Target = TARGET, token: str = TOKEN, **options: Any) -> Any:
    """All messages of a push; the last one is Pushed."""
    return list(push_folder(folder, target, token, waits=NOW, **options))


def pushed(folder: Path, target: Target = TARGET, **options: Any) -> Any:
    return push(folder, target, **options)[-1]


def failure(folder: Path, target: Target = TARGET, token: str = TOKEN, **options: Any) -> str:
    """The sentence that a push ends with; what was to be pushed is as it was."""
    before = digest(folder)
    with pytest.raises(HubError) as refusal:
        push(folder, target, token, **options)
    assert digest(folder) == before
    sentence = str(refusal.value)
    assert token not in sentence and "Traceback" not in sentence
    return sentence


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def holds(hub: Any, folder: Path, repo: str = REPO, revision: str = "main") -> bool:
    """Whether a repo has a folder's files, beside what the Hub itself puts there."""
    there = hub.repos[repo].contents(revision)
    del there[".gitattributes"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return there == {str(path.relative_to(folder)): path.read_bytes() for path in files}


def commits(hub: Any, repo: str = REPO) -> int:
    """How many commits a branch has beside the one that it begins with."""
    return len(hub.repos[repo].branches["main"]) - 1 if repo in hub.repos else 0


def test_a_push_makes_a_private_repo_with_exactly_the_folders_files(hub, folder):
    done = pushed(folder)
    assert holds(hub, folder)
    assert hub.repos[REPO].private
    assert done == {
        "kind": "pushed",
        "url": f"{hub.url}/{REPO}",
        "commit": hub.repos[REPO].at().oid,
        "files": 4,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "unchanged": False,
    }


def test_progress_counts_the_bytes_that_leave(hub, folder):
    hub.part_size = 100_000
    hub.fail("PUT", "/objects/", seconds=0.25)
    told = push(folder)[:-1]
    stages = [message["stage"] for message in told]
    assert [s for n, s in enumerate(stages) if n == 0 or stages[n - 1] != s] == STAGES
    done = [message["done_bytes"] for message in told if message["stage"] == "uploading"]
    assert done == sorted(done) and {0, 100_000, 200_000} <= set(done)
    committing = next(message for message in told if message["stage"] == "committing")
    assert committing["done_bytes"] == committing["total_bytes"] == pushed(folder)["bytes"]


def test_what_was_pushed_comes_back_as_it_was(hub, folder, tmp_path):
    pushed(folder)
    there = Path(snapshot_download(REPO, token=TOKEN, local_dir=tmp_path / "there"))
    for path in folder.rglob("*"):
        if path.is_file():
            assert (there / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_repeated_push_changes_nothing_and_needs_no_yes(hub, folder):
    first = pushed(folder)
    hub.requests.clear()
    assert pushed(folder) == {**first, "unchanged": True}
    assert commits(hub) == 1
    assert {asked.method for asked in hub.requests} == {"GET"}


def test_an_existing_repo_is_not_overwritten_without_a_yes_that_names_it(hub, folder):
    hub.add_repo(REPO, {"README.md": b"somebody's"})
    for said in ("", "anna", "anna/other"):
        assert f"confirm with its name, {REPO}" in failure(folder, Target(REPO, overwrite=said))
    assert hub.repos[REPO].contents()["README.md"] == b"somebody's"
    assert not hub.asked("PUT", "")


def test_a_yes_that_names_it_replaces_what_would_be_loaded_and_leaves_the_rest(hub, folder):
    stale = {"model.safetensors": b"merged", "config.json": b"{}", "tokenizer.json": b"{}"}
    theirs = {"photo.png": b"a picture", "extra/config.json": b"{}"}
    hub.add_repo(REPO, {"README.md": b"old", **stale, **theirs})
    assert not pushed(folder, YES)["unchanged"]
    there = set(hub.repos[REPO].contents())
    assert not there & set(stale)
    assert set(theirs) <= there
    assert hub.repos[REPO].contents()["README.md"] == (folder / "README.md").read_bytes()
    assert pushed(folder)["unchanged"]


def test_only_what_changed_is_sent_again(hub, folder):
    pushed(folder)
    hub.requests.clear()
    (folder / "README.md").write_text("---\nlicense: mit\n---\nnew")
    pushed(folder, YES)
    assert not hub.asked("PUT", "") and not hub.asked("POST", "/objects/batch")
    assert holds(hub, folder)


def test_a_file_that_the_storage_knows_is_not_sent(hub, folder):
    weights = (folder / "adapter_model.safetensors").read_bytes()
    hub.stored[hashlib.sha256(weights).hexdigest()] = weights
    pushed(folder)
    assert not hub.asked("PUT", "")
    assert holds(hub, folder)


def test_a_large_file_goes_in_parts(hub, folder):
    hub.part_size = 100_000
    pushed(folder)
    parts = {asked.query for asked in hub.asked("PUT", "/objects/")}
    assert parts == {"partNumber=1", "partNumber=2", "partNumber=3"}
    assert holds(hub, folder)


def test_a_push_to_a_branch_makes_it_and_leaves_main_alone(hub, folder):
    hub.add_repo(REPO, {"README.md": b"main's"})
    done = pushed(folder, Target(REPO, revision="v2"))
    assert done["url"].endswith("/tree/v2")
    assert hub.repos[REPO].contents("main")["README.md"] == b"main's"
    assert hub.repos[REPO].contents("v2")["README.md"] == (folder / "README.md").read_bytes()
    (folder / "data" / "report.json").write_text("{}")
    assert "confirm with its name" in failure(folder, Target(REPO, revision="v2"))


def test_a_private_push_never_lands_in_a_public_repo(hub, folder):
    hub.add_repo(REPO, private=False)
    assert "is public" in failure(folder)
    assert commits(hub) == 0 and not hub.asked("PUT", "")


def test_a_repo_that_became_public_while_the_push_looked_gets_no_byte(hub, folder):
    """Somebody else makes it, publicly, between our question and our creating it."""
    hub.add_repo(REPO, private=False)
    hub.fail("GET", f"/api/models/{REPO}", status=404, code="RepoNotFound", times=1)
    assert "is public" in failure(folder)
    assert commits(hub) == 0 and not hub.asked("PUT", "")


def test_a_public_push_is_public(hub, folder):
    pushed(folder, Target(REPO, private=False))
    assert not hub.repos[REPO].private


def test_a_token_that_only_reads_sends_nothing(hub, folder):
    hub.add_user("carl", "hf_readsonly", role="read")
    assert "may only read" in failure(folder, Target("carl/bot"), "hf_readsonly")
    assert {asked.method for asked in hub.requests} == {"GET"}


def test_an_empty_folder_is_refused(hub, tmp_path):
    assert "holds no file" in failure(tmp_path / "none")
    assert hub.requests == []


def test_a_link_is_not_followed(hub, folder):
    (folder / "secret.json").symlink_to("/etc/hostname")
    assert "secret.json is a link" in failure(folder)
    assert REPO not in hub.repos


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(hub, folder):
    hub.add_repo(REPO)
    hub.fail("POST", "/commit/", status=412)
    assert "changed meanwhile" in failure(folder)
    assert commits(hub) == 0


# Every fault of the protocol: where it happens, what happens, and a part of the sentence. `times`
# bounds it; without, it stays, and the push must give up by itself.
PUT, BATCH, COMMIT = ("PUT", "/objects/"), ("POST", "/objects/batch"), ("POST", "/commit/")
WHOAMI, CREATE, LOOK = ("GET", "whoami"), ("POST", "/repos/create"), ("GET", f"/models/{REPO}")
PREUPLOAD, VERIFY, CARD = ("POST", "/preupload/"), ("POST", "/verify"), ("POST", "/validate-yaml")
INVALID = "Invalid credentials in Authorization header"
FAULTS = [
    (WHOAMI, {"status": 401, "message": INVALID}, "does not know this token"),
    (WHOAMI, {"status": 429, "retry_after": 3600}, "come back in 3,600 seconds"),
    (WHOAMI, {"status": 500}, "out of order (500)"),
    (WHOAMI, {"resets": True}, "connection to the Hub broke off"),
    (LOOK, {"status": 503}, "out of order (503)"),
    (CREATE, {"status": 403, "message": "no more repos"}, "refused it (403: no more repos)"),
    (CREATE, {"status": 500}, "out of order (500)"),
    (PREUPLOAD, {"status": 500}, "out of order (500)"),
    (BATCH, {"status": 429, "retry_after": 3600}, "come back in 3,600 seconds"),
    (BATCH, {"status": 500}, "out of order (500)"),
    (PUT, {"status": 403}, "refused it (403)"),
    (PUT, {"status": 500}, "out of order (500)"),
    (PUT, {"resets": True}, "connection to the Hub broke off"),
    (VERIFY, {"status": 422}, "refused it (422)"),
    (COMMIT, {"status": 403}, "refused it (403)"),
    (COMMIT, {"status": 409}, "Somebody else is changing it"),
    (COMMIT, {"status": 413}, "too large for the Hub"),
    (COMMIT, {"status": 429}, "asks to slow down"),
    (COMMIT, {"status": 500}, "out of order (500)"),
    (COMMIT, {"resets": True}, "connection to the Hub broke off"),
]
NAMES = [f"{where[1].strip('/')}-{'-'.join(map(str, what.values()))}" for where, what, _ in FAULTS]


@pytest.mark.parametrize(("where", "what", "said"), FAULTS, ids=NAMES)
def test_a_fault_that_stays_ends_in_a_sentence_and_commits_nothing(hub, folder, where, what, said):
    hub.fail(*where, **what)
    assert said in failure(folder)
    assert commits(hub) == 0
    assert len(hub.asked(*where)) <= 6, "tries are bounded"


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (WHOAMI, {"status": 500}),
        (CREATE, {"status": 429, "retry_after": 0}),
        (CREATE, {"loses_response": True, "times": 1}),
        (BATCH, {"resets": True}),
        (PUT, {"resets": True}),
        (PUT, {"status": 429, "retry_after": 5}),
        (VERIFY, {"status": 500}),
        (CARD, {"resets": True}),
        (COMMIT, {"status": 500}),
        (COMMIT, {"resets": True}),
        (COMMIT, {"loses_response": True, "times": 1}),
    ],
    ids=str,
)
def test_a_fault_that_passes_is_got_over_with_one_commit(hub, folder, where, what):
    hub.fail(*where, **{"times": 2, **what})
    assert not pushed(folder)["unchanged"]
    assert holds(hub, folder)
    assert commits(hub) == 1


def test_a_quota_that_is_used_up_is_told_in_the_hubs_words(hub, folder):
    hub.lfs_error = "Private repository storage limit reached"
    assert "takes no file: Private repository storage limit reached" in failure(folder)
    assert commits(hub) == 0


def test_a_card_that_is_no_yaml_is_told_before_anything_is_sent(hub, folder):
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "card's metadata is not valid: bad yaml" in failure(folder)
    assert not hub.asked("PUT", "")


def test_a_commit_that_the_hub_only_claims_is_not_called_done(hub, folder):
    claimed = {"commitOid": "0" * 40, "commitUrl": f"{hub.url}/{REPO}/commit/{'0' * 40}"}
    hub.fail(*COMMIT, status=200, body=json.dumps(claimed).encode())
    assert f"Could not read back {REPO}: there is no such revision" in failure(folder)


def test_a_file_that_the_hub_left_out_is_found_when_it_is_read_back(hub, folder):
    hub.ignored.add("data/report.json")
    said = failure(folder)
    assert "is not complete: the Hub shows other content (data/report.json)" in said


@pytest.mark.parametrize(
    ("where", "stage"), [(WHOAMI, "checking"), (PUT, "uploading"), (COMMIT, "committing")]
)
def test_a_hub_that_hangs_is_given_up_and_the_next_push_goes_on(hub, folder, where, stage):
    hub.fail(*where, hangs=True)
    said = failure(folder, silence_seconds=1.2)
    assert f"ended while {stage}: the Hub has not answered for" in said
    assert commits(hub) == 0
    hub.faults.clear()
    hub.requests.clear()
    assert not pushed(folder)["unchanged"]
    arrived = stage == "committing"
    assert bool(hub.asked("PUT", "")) != arrived, "what had arrived is not sent again"
    assert holds(hub, folder)


def test_closing_the_iterator_cancels_the_push(hub, folder):
    hub.fail(*PUT, hangs=True)
    messages = push_folder(folder, TARGET, TOKEN)
    while next(messages)["stage"] != "uploading":
        pass
    assert next(messages)["stage"] == "uploading", "it is told although nothing moves"
    assert [line for line in children() if "tuner.hub.upload" in line]
    messages.close()
    assert not [line for line in children() if "tuner.hub.upload" in line]
    assert commits(hub) == 0


def children() -> list[str]:
    """Command lines of the processes that this one started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"PPid:\t{os.getpid()}\n" in status.read_text():
                found.append((status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture
def by_xet(tmp_path, monkeypatch):
    """A Hub of its own: hf_xet remembers in HF_HOME what it sent, and to that Hub alone."""
    with small_hub(tmp_path) as hub:
        hub.add_user("anna", TOKEN)
        hub.use_here(monkeypatch)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "0")
        monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "20ms")
        monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_DURATION", "200ms")
        yield hub


def test_a_push_by_xet_arrives_and_its_repetition_changes_nothing(by_xet, folder):
    assert not pushed(folder)["unchanged"]
    assert by_xet.asked("POST", "/v1/xorbs/") and not by_xet.asked("PUT", "")
    assert holds(by_xet, folder)
    assert pushed(folder)["unchanged"]
    stored = [asked for asked in by_xet.requests if asked.port == "storage"]
    assert stored and all(asked.token != TOKEN for asked in stored)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (("GET", "/xet-write-token/"), {"status": 403}),
        (("GET", "/xet-write-token/"), {"status": 404}),
        (("POST", "/v1/xorbs/"), {"status": 401}),
        (("POST", "/v1/xorbs/"), {"status": 413}),
        (("POST", "/v1/xorbs/"), {"status": 500}),
        (("POST", "/v1/xorbs/"), {"resets": True}),
    ],
    ids=str,
)
def test_a_fault_of_xet_ends_in_a_sentence_and_commits_nothing(by_xet, folder, where, what):
    by_xet.fail(*where, **what)
    assert "storage did not take the files" in failure(folder)
    assert commits(by_xet) == 0


def test_a_lost_response_to_a_commit_by_xet_is_found_not_repeated(by_xet, folder):
    by_xet.fail(*COMMIT, loses_response=True, times=1)
    assert not pushed(folder)["unchanged"]
    assert commits(by_xet) == 1
    assert len(by_xet.asked(*COMMIT)) == 1
