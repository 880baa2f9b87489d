"""With whose token the page's runs are copied, and what is said when nobody's is there."""

import time

import pytest

from tests.hub.conftest import TOKEN, hub, shared_hub  # noqa: F401 (fixtures)
from tests.hub.saved_runs import REPO, made_run, save
from tests.ui.asking import asked, session_of
from tuner.errors import HubError, RecipeError, RunError
from tuner.hub.identity import LOCAL_OWNER, VISITOR, Person, Role
from tuner.hub.run_copy import copy_run
from tuner.runs import queue
from tuner.runs.pushes import is_being_pushed, last_push, read_pushes, record_push
from tuner.runs.run import Run
from tuner.runs.store import RunStore
from tuner.ui.api import Api
from tuner.ui.run_facts import copy_facts
from tuner.ui.saves import go_on_with_copies, require_copies, start_copies
from tuner.ui.services import Services

SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "clinic/tuner",
    "SPACE_AUTHOR_NAME": "clinic",
    "OAUTH_CLIENT_SECRET": "of the Space",
    "TUNER_TRAINING": "signed-in",
}
ANNA = Person(Role.SIGNED_IN, "anna", TOKEN)


def in_line(folder) -> Run:
    run = made_run(folder)
    queue.enqueue(RunStore(folder), run)
    return run


def ended(run: Run) -> bool:
    """Whether the copying ends, once the run has left the line."""
    queue.leave(run)
    until = time.monotonic() + 60
    while is_being_pushed(run) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_being_pushed(run)


@pytest.mark.parametrize(
    ("space", "login", "here", "allowed"),
    [
        (True, None, ANNA, True),
        (True, TOKEN, Person(Role.OWNER, "bea"), False),
        (True, TOKEN, VISITOR, False),
        (False, TOKEN, LOCAL_OWNER, True),
        (False, TOKEN, VISITOR, False),
        (False, None, LOCAL_OWNER, False),
    ],
    ids=["signed-in", "no-token", "stranger", "owner", "network", "no-login"],
)
def test_copies_are_pushed_with_ones_own_token_or_not_at_all(
    hub,  # noqa: F811
    tmp_path,
    monkeypatch,
    space,
    login,
    here,
    allowed,
):
    if space:
        monkeypatch.setenv("SPACE_ID", "clinic/tuner")
    if login:
        monkeypatch.setenv("HF_TOKEN", login)
    run = in_line(tmp_path / "runs")
    if allowed:
        require_copies(here, run.recipe())
        start_copies(here, run)
        assert is_being_pushed(run), "from the moment on that it was asked for"
        assert {asked.token for asked in hub.requests if asked.port == "hub"} == {TOKEN}
    else:
        with pytest.raises(RecipeError, match="Nobody is signed in"):
            require_copies(here, run.recipe())
        start_copies(here, run)
        assert last_push(run)[1]["message"].startswith("No copies are pushed")
        assert not hub.requests
    assert ended(run)


def test_after_a_restart_the_machines_login_goes_on_and_a_spaces_visitors_are_told(
    hub,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = in_line(tmp_path / "own")
    go_on_with_copies(run)
    go_on_with_copies(run)
    assert is_being_pushed(run) and read_pushes(run) == [] and ended(run)
    monkeypatch.setenv("SPACE_ID", "clinic/tuner")
    theirs = in_line(tmp_path / "theirs")
    go_on_with_copies(theirs)
    assert not is_being_pushed(theirs)
    assert "resume it to go on" in last_push(theirs)[1]["message"]


def test_a_run_tells_its_last_copy_and_what_failed_since(tmp_path):
    run = made_run(tmp_path)
    assert copy_facts(run) == []
    save(run, 2)
    record_push(run, "failed", REPO, 2, "The Hub is out of order (503).")
    record_push(run, "pushed", REPO, 4, f"The copy in {REPO} is of step 4.")
    assert copy_facts(run) == [("Copies", f"The copy in {REPO} is of step 4.")]
    record_push(run, "failed", REPO, 6, "The Hub refused it: hf_" + "a1" * 17)
    with open(run.dir / "pushes.jsonl", "ab") as file:
        file.write(b'{"kind": "pushed"}\n[]\n{"kind": "pu')
    said = f"The copy in {REPO} is of step 4. The Hub refused it: [Hub token]"
    assert copy_facts(run) == [("Copies", said)]


def test_who_may_train_brings_their_own_run_back_and_a_visitor_nothing(
    hub,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    for name, value in SPACE.items():
        monkeypatch.setenv(name, value)
    run = made_run(tmp_path / "lost")
    save(run, 4)
    copy_run(run, tmp_path / "copy", REPO)
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    named = {path.relative_to(tmp_path / "copy").as_posix(): path for path in files}
    hub.add_repo(REPO, {name: path.read_bytes() for name, path in named.items()})
    services = Services.of(RunStore(tmp_path / "runs"), open_to_others=True)
    api = Api(services)
    with pytest.raises(RunError, match="only its owner trains"):
        api.pull_run(REPO, asked(session={}))
    with pytest.raises(HubError, match="no such repo that this account can see"):
        api.pull_run(REPO, asked(session=session_of("bob", token="")))
    pulled = api.pull_run(REPO, asked(session=session_of("anna", token=TOKEN)))
    assert (pulled["run"], pulled["step"], pulled["pushes"]) == (run.id, 4, True)
    assert services.store.get(run.id).status()["owner"] == "anna"
    services.end()
