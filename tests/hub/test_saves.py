"""Copies at every save, by the real process, of runs that are made by hand."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.hub.conftest import TOKEN
from tests.hub.saved_runs import PUSHED, REPO, at_work, made_run, save, tell
from tests.hub.test_publish import family
from tuner.cli import app
from tuner.errors import RecipeError
from tuner.hub.own_repo import require_saves
from tuner.hub.run_copy import copy_run
from tuner.hub.saves import start_saver
from tuner.recipe import make_recipe
from tuner.runs import queue
from tuner.runs.pushes import is_being_pushed, last_push, read_pushes, record_push
from tuner.runs.run import Run
from tuner.runs.store import RunStore
from tuner.service.run_documents import show_document

PATIENCE = 60.0
NOW = (0.0,)


def wait_for(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.02)


@pytest.fixture
def run(hub, tmp_path):
    return made_run(tmp_path / "runs")


@pytest.fixture
def start(hub):
    """Starts savers, and ends those that a test leaves."""
    started = []

    def begin(run: Run, token: str = TOKEN):
        started.append(start_saver(run, token))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def kinds(run: Run) -> list[str]:
    return [record["kind"] for record in read_pushes(run)]


def there(hub) -> dict[str, bytes]:
    return hub.repos[REPO].contents()


def steps(hub) -> set[str]:
    return {path.split("/")[2] for path in there(hub) if path.startswith("run/checkpoints/")}


def copied(run: Run, step: int) -> Callable[[], bool]:
    return lambda: any(r["kind"] == "pushed" and r["step"] == step for r in read_pushes(run))


def test_every_checkpoint_is_pushed_with_all_that_a_resume_needs_and_nothing_else(hub, run, start):
    with at_work(run):
        saver = start(run)
        save(run, 2)
        wait_for(copied(run, 2), "the first copy")
        assert hub.repos[REPO].private
        assert {path for path in there(hub) if "step-2" not in path} == {
            ".gitattributes",
            *(f"run/{name}" for name in ("run.json", "README.md", "recipe.yaml", "status.json")),
            *("run/events.jsonl", "run/data/train.jsonl", "run/data/eval.jsonl"),
            "run/data/report.json",
        }
        assert {path.split("/")[3] for path in there(hub) if "step-2" in path} == {
            *("adapter_config.json", "adapter_model.safetensors", "trainer_state.json"),
            *("token_count.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
        }
        save(run, 4, best=2)
        wait_for(copied(run, 4), "the second copy")
        assert steps(hub) == {"step-2", "step-4"}, "the newest, and the best so far"
        save(run, 6, best=6)
        wait_for(copied(run, 6), "the third copy")
        assert steps(hub) == {"step-6"}
    assert saver.wait(PATIENCE) == 0, "it ends with the run"
    assert json.loads(there(hub)["run/run.json"])["run"] == run.id
    assert [path.name for path in run.dir.parent.iterdir()] == [run.dir.name]
    assert last_push(run)[0]["message"] == f"The copy in {REPO} is of step 6."
    assert show_document(run)["pushes"] == read_pushes(run)


def test_the_token_is_in_no_file_and_no_command_line(hub, run, start, tmp_path):
    commands = set()
    hub.fail("PUT", "/objects/", seconds=0.3)  # long enough to be looked at
    with at_work(run):
        saver = start(run)
        save(run, 2)
        while not copied(run, 2)():
            for pid in family(saver.pid):
                commands.add(Path(f"/proc/{pid}/cmdline").read_bytes())
            time.sleep(0.02)
    saver.wait(PATIENCE)
    assert any(b"tuner.hub.saves" in line for line in commands)
    assert any(b"tuner.hub.upload" in line for line in commands)
    assert not any(TOKEN.encode() in line for line in commands)
    files = [path for place in (tmp_path, hub.folder) for path in place.rglob("*")]
    assert run.dir / "push.log" in files and run.dir / "pushes.jsonl" in files
    assert not [p for p in files if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert not any(TOKEN.encode() in content for content in there(hub).values())
    assert {asked.token for asked in hub.requests if asked.port == "hub"} == {TOKEN}


def test_a_copy_that_fails_is_told_and_tried_again_at_the_next_save(hub, run, start):
    with at_work(run) as training:
        start(run)
        hub.fail("POST", "/commit/", status=403, times=1)
        save(run, 2)
        wait_for(lambda: kinds(run) == ["failed"], "the failure")
        assert "refused it (403)" in last_push(run)[1]["message"]
        assert training.poll() is None and run.status()["state"] == "running"
        save(run, 4)
        wait_for(copied(run, 4), "the next copy")
        assert last_push(run)[1] is None


def test_the_last_copy_is_tried_again_by_itself(hub, run, start):
    hub.fail("POST", "/commit/", status=403, times=2)
    with at_work(run):
        saver = start(run)
        save(run, 2)
        wait_for(lambda: kinds(run) == ["failed"], "the failure")
    run.update_status(state="stopped")
    assert saver.wait(PATIENCE) == 0
    assert kinds(run) == ["failed", "failed", "pushed"]
    assert json.loads(there(hub)["run/status.json"])["state"] == "stopped"


def test_a_run_in_line_is_waited_for_and_one_that_leaves_it_is_not(hub, run, start):
    store = RunStore(run.dir.parent)
    queue.enqueue(store, run)
    saver = start(run)
    wait_for(lambda: is_being_pushed(run), "the process")
    queue.leave(run)
    assert saver.wait(PATIENCE) == 0
    assert not hub.repos and read_pushes(run) == []


def test_deleting_a_run_ends_its_copying_at_once(hub, run, start):
    hub.fail("PUT", "/objects/", hangs=True)
    with at_work(run):
        saver = start(run)
        save(run, 2)
        wait_for(lambda: hub.asked("PUT", "/objects/"), "the upload")
    RunStore(run.dir.parent).delete(run.id)
    assert saver.wait(PATIENCE) == 0
    assert list(run.dir.parent.iterdir()) == []


def test_a_signal_ends_it_quickly_and_with_it_the_upload(hub, run, start):
    hub.fail("PUT", "/objects/", hangs=True)
    with at_work(run):
        saver = start(run)
        save(run, 2)
        wait_for(lambda: hub.asked("PUT", "/objects/"), "the upload")
        uploading = family(saver.pid)[1:]
        saver.send_signal(signal.SIGTERM)
        assert saver.wait(PATIENCE) == 3
        wait_for(lambda: not any(Path(f"/proc/{p}").exists() for p in uploading), "their end")
        assert [path.name for path in run.dir.parent.iterdir()] == [run.dir.name]


def test_a_second_process_waits_for_the_first_and_removes_what_a_killed_one_left(hub, run, start):
    hub.fail("PUT", "/objects/", hangs=True)
    with at_work(run):
        first = start(run)
        save(run, 2)
        wait_for(lambda: hub.asked("PUT", "/objects/"), "the upload")
        second = start(run)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert len(list(run.dir.parent.glob(".push-*"))) == 1
        hub.faults.clear()
        wait_for(copied(run, 2), "the second's copy")
    assert second.wait(PATIENCE) == 0
    assert [path.name for path in run.dir.parent.iterdir()] == [run.dir.name]


def test_without_a_token_the_run_goes_on_and_its_record_says_so(run):
    assert start_saver(run, None) is None
    assert "nobody is signed in" in last_push(run)[1]["message"]


def test_a_run_that_asks_for_no_copies_gets_no_process(hub, tmp_path):
    assert start_saver(made_run(tmp_path, push_every_save=False), TOKEN) is None


def test_a_repo_that_becomes_anothers_meanwhile_is_not_overwritten(hub, run, start):
    with at_work(run):
        start(run)
        hub.add_repo(REPO, {"README.md": b"somebody's"})
        save(run, 2)
        wait_for(lambda: kinds(run) == ["failed"], "the refusal")
    assert "holds something other than this run" in last_push(run)[1]["message"]
    assert there(hub)["README.md"] == b"somebody's"


def test_what_grows_is_copied_to_its_last_whole_line(tmp_path):
    run = made_run(tmp_path / "runs")
    save(run, 2)
    whole = run.events_path.read_bytes()
    with open(run.events_path, "ab") as file:
        file.write(b'{"half a line')
    assert copy_run(run, tmp_path / "copy", REPO) == 2
    copy = tmp_path / "copy" / "run"
    assert (copy / "events.jsonl").read_bytes() == whole
    tell(run, "log", message="more")
    assert (copy / "events.jsonl").read_bytes() == whole
    recipe = (copy / "recipe.yaml").read_bytes()
    run.save_recipe(run.recipe().model_copy(update={"seed": 7}))
    assert (copy / "recipe.yaml").read_bytes() == recipe


def test_push_every_save_without_a_repo_is_refused_by_the_recipe():
    with pytest.raises(RecipeError, match="Set hub_model_id to user/name"):
        make_recipe({"push_every_save": True})


@pytest.mark.parametrize(
    ("repo", "token", "said"),
    [
        ("bot", TOKEN, "has no owner"),
        (REPO, None, "Nobody is signed in"),
        (REPO, "hf_" + "x" * 34, "does not know this token"),
        ("bea/bot", TOKEN, "anna is no member there"),
        ("anna/shown", TOKEN, "is public, and this push is private. Choose another name."),
        ("anna/other", TOKEN, "holds something other than this run"),
    ],
    ids=["form", "token", "unknown", "rights", "public", "other"],
)
def test_what_cannot_be_pushed_to_is_refused_before_the_run_begins(hub, repo, token, said):
    hub.add_repo("anna/shown", {"README.md": b"shown"}, private=False)
    hub.add_repo("anna/other", {"run/events.jsonl": b"", "README.md": b"other"})
    recipe = make_recipe({**PUSHED, "hub_model_id": repo})
    with pytest.raises(RecipeError) as refusal:
        require_saves(recipe, token, 1.0, waits=NOW)
    assert said in str(refusal.value)
    assert str(refusal.value).endswith("Or set push_every_save to false.")
    assert {asked.method for asked in hub.requests} <= {"GET", "HEAD"}


def test_a_repo_is_free_when_it_is_missing_or_holds_a_copy_of_this_very_run(hub, tmp_path):
    run = made_run(tmp_path / "runs")
    require_saves(run.recipe(), TOKEN)
    assert not hub.repos, "nothing is made"
    created = run.status()["created"]
    held = json.dumps({"format": 1, "run": run.id, "created": created}).encode()
    hub.add_repo(REPO, {"run/run.json": held})
    require_saves(run.recipe(), TOKEN, created)
    for other in (None, created + 1):
        with pytest.raises(RecipeError, match="other than this run"):
            require_saves(run.recipe(), TOKEN, other)


def test_a_shell_refuses_to_train_or_resume_what_could_not_be_copied(hub, run):
    """Nothing is started, and no run is made."""
    root = run.dir.parent
    save(run, 2)
    run.update_status(state="stopped")
    wanted = ["--set", "push_every_save=true", "--set", f"hub_model_id={REPO}"]
    for words in (["train", "--preset", "chatbot", *wanted], ["resume", run.id]):
        answer = CliRunner().invoke(app, [*words, "--runs-dir", str(root)])
        assert answer.exit_code == 2 and "Nobody is signed in" in answer.output
    assert run.status()["state"] == "stopped" and len(list(root.iterdir())) == 1


def test_show_tells_of_copies_among_what_the_run_told(hub, run):
    record_push(run, "pushed", REPO, 2, f"The copy in {REPO} is of step 2.")
    answer = CliRunner().invoke(app, ["show", run.id, "--runs-dir", str(run.dir.parent)])
    lines = [line.split(None, 2)[1:] for line in answer.output.splitlines()[-2:]]
    assert lines == [["log", "Reading sums.jsonl"], ["pushed", f"The copy in {REPO} is of step 2."]]
