"""Runs brought back from the Hub: whole ones by hand, hostile ones, and one that is trained on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.hub.conftest import TOKEN
from tests.hub.saved_runs import PUSHED, REPO, made_run, save
from tests.tiny_models import tiny_model
from tests.training.forked_runs import train_all
from tuner.data.sources import PROJECT_ROOT
from tuner.errors import HubError, RunError
from tuner.hub.pull import Pulled, pull_run
from tuner.hub.run_copy import copy_run
from tuner.hub.saves import start_saver
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.pushes import read_pushes
from tuner.runs.run import Run
from tuner.runs.store import RunStore

PATIENCE = 120.0


def copy_of(run: Run, folder: Path) -> dict[str, bytes]:
    """What a saver pushes of a run, as files of a repo."""
    copy_run(run, folder, REPO)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def there(hub, tmp_path) -> Run:
    """A run that was copied to the Hub at step 4, and is here no more."""
    run = made_run(tmp_path / "there")
    save(run, 2)
    save(run, 4, best=2)
    run.update_status(state="running", pid=os.getpid(), reason="Of another machine.", owner="bea")
    hub.add_repo(REPO, copy_of(run, tmp_path / "copy"))
    return run


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "here")


def pull(store: RunStore, token: str | None = TOKEN, **options: Any) -> Pulled:
    return pull_run(store, REPO, token, **options)


def held(hub: Any) -> dict[str, bytes]:
    """What the repo holds, for a test to put something else into."""
    return hub.repos[REPO].contents()


def refusal(store: RunStore, kind: type[Exception] = RunError, **options: Any) -> str:
    """The sentence that a pull ends with, after which nothing of it is here."""
    with pytest.raises(kind) as refused:
        pull(store, **options)
    assert not store.root.exists() or list(store.root.iterdir()) == []
    return str(refused.value)


def test_a_pulled_run_is_the_run_that_was_pushed_ready_to_be_resumed(hub, there, store):
    told: list[tuple[int, int]] = []
    pulled = pull(store, owner="anna", progress=lambda *now: told.append(now))
    run = store.get(there.id)
    assert pulled["run"] == run.id and pulled["commit"] == hub.repos[REPO].at().oid
    assert told[-1] == (pulled["bytes"], pulled["bytes"]) and told == sorted(told)
    assert [step for step, _ in run.checkpoints()] == [2, 4]
    for name in ("events.jsonl", "data/train.jsonl", "checkpoints/step-4/optimizer.pt"):
        assert (run.dir / name).read_bytes() == (there.dir / name).read_bytes()
    assert {path.name for path in run.dir.iterdir()} == {
        *("recipe.yaml", "status.json", "events.jsonl", "data", "checkpoints"),
    }
    status = run.status()
    assert (status["state"], status["step"], status["owner"]) == ("interrupted", 4, "anna")
    assert status["created"] == there.status()["created"] and status["pid"] is None
    assert status["reason"] == f"Pulled from {REPO}, at step 4; a resume continues there."
    launch.require_startable(run, resume=True)
    assert run.recipe() == there.recipe() and pulled["pushes"]


def test_a_second_pull_gets_a_number_and_another_name_if_that_is_asked_for(there, store):
    assert pull(store)["run"] == there.id
    assert pull(store)["run"] == f"{there.id}-2"
    assert pull(store, name="Second try")["run"] == f"{there.id[:13]}-second-try"


def test_an_earlier_copy_is_pulled_by_its_commit(hub, there, store):
    earlier = hub.repos[REPO].at().oid
    save(there, 6)
    now = {**hub.repos[REPO].at().files}
    hub.repos[REPO].commit("main", {"run/run.json": now["run/run.json"]}, "the rest is gone")
    assert "is not complete" in refusal(store)
    assert pull(store, revision=earlier)["step"] == 4


def test_copies_go_on_only_to_where_the_run_came_from_and_only_by_who_may_write(hub, there, store):
    there.save_recipe(there.recipe().model_copy(update={"hub_model_id": "clinic/elsewhere"}))
    files = held(hub) | {"run/recipe.yaml": there.recipe_path.read_bytes()}
    hub.add_repo(REPO, files)
    assert pull(store)["pushes"]
    assert store.get(there.id).recipe().hub_model_id == REPO
    hub.add_repo(REPO, files, private=False)
    assert not pull(store, token=None, name="shown")["pushes"]
    assert store.get("shown").recipe().push_every_save is False


def test_an_adapter_alone_is_no_run_and_the_sentence_says_what_it_is_for(hub, store):
    hub.add_repo(REPO, {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"})
    assert f"python -m tuner chat {REPO}" in refusal(store)
    hub.add_repo(REPO, {"model.safetensors": b"x"})
    assert "holds no run" in refusal(store)


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("run/../../escaped.jsonl", b"x", "no file of a run"),
        ("run//tmp/escaped.jsonl", b"x", "no file of a run"),
        ("run/data/../../../x.jsonl", b"x", "no file of a run"),
        ("run/checkpoints/step-4/adapter_model.bin", b"x", "no file of a run"),
        ("run/checkpoints/step-4/training_args.bin", b"x", "no file of a run"),
        ("run/data/arrow/train-abc.arrow", b"x", "no file of a run"),
        ("run/adapter/modeling_evil.py", b"x", "no file of a run"),
        ("run/status.json", b" " * 10_000_001, "too many for such a file"),
        ("run/status.json", b"[]", "status.json of the run in anna/bot is damaged"),
        ("run/data/report.json", b"{", "data/report.json of the run in anna/bot is damaged"),
        ("run/data/report.json", b"[]", "data/report.json of the run in anna/bot is damaged"),
        ("run/recipe.yaml", b"max_lenght: 5", "max_lenght is not a recipe setting"),
        ("run/recipe.yaml", b"!!python/object/apply:os.system [id]", "cannot be read as YAML"),
        ("run/checkpoints/step-4/trainer_state.json", b'{"global_step": 9}', "another step"),
        ("run/checkpoints/step-9/config.json", b"{}", "step 9 in anna/bot is not complete"),
    ],
)
def test_what_no_saver_pushed_is_refused_and_leaves_nothing(hub, there, store, path, content, said):
    hub.add_repo(REPO, held(hub) | {path: content})
    assert said in refusal(store)
    assert not any("escaped" in path.name for path in store.root.parent.rglob("*"))


@pytest.mark.parametrize(
    "change",
    [
        {"run": "../../escaped"},
        {"run": "20261123-0915-" + "é" * 150},
        {"run": 5},
        {"created": "now"},
        {"created": 1e300},
    ],
)
def test_an_id_or_a_time_that_no_run_has_is_refused(hub, there, store, change):
    manifest = json.loads(held(hub)["run/run.json"]) | change
    hub.add_repo(REPO, held(hub) | {"run/run.json": json.dumps(manifest).encode()})
    refusal(store, HubError)


def test_a_newer_versions_copy_is_told_as_such(hub, there, store):
    hub.add_repo(REPO, held(hub) | {"run/run.json": b'{"format": 2}'})
    assert "Update Tuner" in refusal(store, HubError)


def test_what_this_page_refuses_in_a_recipe_is_refused_in_a_pulled_one(there, store):
    problems, asked = ["A folder of this machine cannot be named here."], []
    assert refusal(store, refused=lambda recipe: asked.append(recipe) or problems) == problems[0]
    assert asked[0].base_model == "starter" and asked[0].dataset.source == ""


def test_a_file_that_did_not_arrive_as_listed_is_refused(hub, there, store):
    weights = hub.repos[REPO].at().files["run/checkpoints/step-4/adapter_model.safetensors"]
    hub.stored[weights.sha256] = bytes(len(weights.content))
    assert "did not arrive as the Hub has it" in refusal(store, HubError)


@pytest.mark.parametrize(
    ("fault", "token", "said"),
    [
        ({}, None, "there is no such repo that this account can see"),
        ({"method": "GET", "path": "/objects/", "status": 403}, TOKEN, "refused it (403)"),
        ({"method": "GET", "path": "/tree/", "status": 401}, TOKEN, "does not know this token"),
    ],
    ids=["private", "storage", "list"],
)
def test_a_failing_hub_is_a_sentence_and_leaves_nothing(hub, there, store, fault, token, said):
    if fault:
        hub.faults.append(type(hub.fail("NONE", "nowhere"))(**fault))
    assert said in refusal(store, HubError, token=token)


ORDERS = [
    {"question": f"Where is order {n * 37}?", "answer": f"Order {n * 37} left on day {n}."}
    for n in range(32)
]


def trained(folder: Path, base: Path, **settings: Any) -> Run:
    """A run of eight steps that is not started."""
    source = base.parent / "orders.jsonl"
    source.write_text("\n".join(map(json.dumps, ORDERS)))
    values = {
        "base_model": str(base),
        "dataset": {"source": str(source)},
        "max_length": 64,
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 5e-3,
        "max_steps": 8,
        "eval_steps": 2,
        "lora": {"lora_dropout": 0.1},  # so that the random state matters
    }
    return RunStore(folder).create(make_recipe(values | settings), "orders")


def wait_for(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def shell(*words: str, runs: Path, code: int = 0) -> str:
    """A command as a person gives it; what it says on stdout and stderr."""
    path = os.pathsep.join([str(PROJECT_ROOT), os.environ["PYTHONPATH"]])
    own = {"PYTHONPATH": path, "TUNER_RUNS_DIR": str(runs), "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-m", "tuner", *words],
        check=False,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.adapter_dir / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("other")
    run = trained(folder / "runs", tiny_model(folder))
    train_all([run])
    assert run.status()["state"] == "completed"
    return run


def test_a_run_that_was_killed_and_lost_goes_on_from_the_hub_and_ends_as_if_nothing_had_been(
    never_killed, hub, tmp_path
):
    base = Path(never_killed.recipe().base_model)
    lost = trained(tmp_path / "runs", base, **PUSHED)
    launch.start(lost)
    saver = start_saver(lost, TOKEN)
    wait_for(lost.last_checkpoint, "a checkpoint")
    os.kill(lost.status()["pid"], signal.SIGKILL)
    assert saver.wait(PATIENCE) == 0
    shutil.rmtree(lost.dir)

    runs = tmp_path / "elsewhere"
    assert f"resume {lost.id}" in shell("pull", REPO, runs=runs)
    run = RunStore(runs).get("orders")
    assert 2 <= run.status()["step"] < 8

    said = shell("resume", "orders", runs=runs)
    assert "of step 8" in said
    assert run.status()["state"] == "completed"
    again, expected = weights(run), weights(never_killed)
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    assert run.result()["trained_tokens"] == never_killed.result()["trained_tokens"]
    assert read_pushes(run)[-1]["kind"] == "pushed"

    there = hub.repos[REPO].contents()
    kept = (run.adapter_dir / "adapter_model.safetensors").read_bytes()
    assert there["adapter_model.safetensors"] == there["run/adapter/adapter_model.safetensors"]
    assert there["adapter_model.safetensors"] == kept
    third = RunStore(tmp_path / "third")
    assert pull(third)["state"] == "completed"
    assert torch.equal(*(next(iter(weights(each).values())) for each in (run, third.get(run.id))))
