"""A run from the shell to the Hub and back, and where its token was meanwhile."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.chat.tuned import save_adapter
from tests.hub.conftest import TOKEN
from tests.tiny_models import tiny_model
from tuner.data.sources import PROJECT_ROOT
from tuner.recipe import make_recipe
from tuner.runs.store import Run, RunStore

REPO = "anna/bot"


class Shell:
    """Runs `push` as a person does, in folders of its own, and remembers every command line."""

    def __init__(self, folder: Path, run: Run):
        self.folder, self.run = folder, run
        self.home, self.here, self.tmp = (folder / name for name in ("hf_home", "here", "tmp"))
        for made in (self.home, self.here, self.tmp):
            made.mkdir()
        self.command_lines: set[bytes] = set()
        self.on_their_way: dict[str, bytes] = {}
        self.spoken = b""

    def environment(self, token: str | None) -> dict[str, str]:
        path = os.pathsep.join([str(PROJECT_ROOT), os.environ["PYTHONPATH"]])
        own = {"HF_HOME": str(self.home), "TMPDIR": str(self.tmp), "PYTHONPATH": path}
        given = {
            "TUNER_RUNS_DIR": str(self.run.dir.parent),
            **({"HF_TOKEN": token} if token else {}),
        }
        return {**os.environ, **own, **given}

    def start(self, *words: str, token: str | None = TOKEN) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "tuner", "push", self.run.id, *words],
            cwd=self.here,
            env=self.environment(token),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def push(self, *words: str, code: int = 0, token: str | None = TOKEN) -> tuple[str, str]:
        process = self.start(*words, token=token)
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(process.pid, over))
        watch.start()
        out, err = process.communicate(timeout=60)
        over.set()
        watch.join()
        self.spoken += out + err
        assert process.returncode == code, err.decode()
        assert b"Traceback" not in err
        return out.decode(), err.decode()

    def _watch(self, pid: int, over: threading.Event) -> None:
        while not over.wait(0.02):
            for found in family(pid):
                with suppress(OSError):
                    self.command_lines.add(Path(f"/proc/{found}/cmdline").read_bytes())
            with suppress(OSError):  # it is removed while it is looked at
                for path in self.run.dir.parent.glob(".push-*/**/*"):
                    with suppress(OSError):
                        self.on_their_way[path.name] = path.read_bytes()


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    """A completed run with an adapter that matters, made by hand."""
    recipe = make_recipe({"base_model": str(base), "dataset": {"source": "sums.jsonl"}})
    run = RunStore(tmp_path_factory.mktemp("store") / "runs").create(recipe, "bot")
    save_adapter(base, run.adapter_dir)
    run.update_status(state="completed")
    return run


@pytest.fixture
def shell(hub, run, tmp_path):
    return Shell(tmp_path, run)


def test_a_pushed_adapter_comes_back_and_answers_as_it_did(hub, shell, run, base, tmp_path):
    document = json.loads(shell.push(REPO, "--json")[0])
    assert document["commit"] == hub.repos[REPO].at().oid
    assert (document["repo"], document["run"], document["unchanged"]) == (REPO, run.id, False)
    there = snapshot_download(REPO, token=TOKEN, local_dir=tmp_path / "there")
    ids = torch.arange(2, 40)[None]
    here, back = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)(ids).logits
        for folder in (run.adapter_dir, there)
    )
    assert torch.equal(here, back)
    assert not torch.equal(here, AutoModelForCausalLM.from_pretrained(base)(ids).logits)
    assert json.loads(shell.push(REPO, "--json")[0])["unchanged"]


def test_the_token_is_in_no_file_line_or_command_of_a_whole_push(hub, shell, run, tmp_path):
    hub.fail("PUT", "/objects/", seconds=0.3)  # long enough to be looked at
    shell.push(REPO)
    shell.push(REPO)
    shell.push("clinic/other", "--json")
    assert {asked.token for asked in hub.requests if asked.port == "hub"} == {TOKEN}
    assert any(b"tuner.hub.upload" in line for line in shell.command_lines)
    secret = TOKEN.encode()
    assert not any(secret in line for line in shell.command_lines)
    assert secret not in shell.spoken
    places = (tmp_path, run.dir.parent, hub.folder)
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert any(b"LORA" in path.read_bytes() for path in files), "the search can find"
    assert [path for path in files if secret in path.read_bytes()] == []
    assert {"README.md", "adapter_model.safetensors"} <= set(shell.on_their_way)
    assert not any(secret in content for content in shell.on_their_way.values())
    for repo in hub.repos.values():
        assert not any(secret in content for content in repo.contents().values())
    assert not any(secret.decode() in asked.path + asked.query for asked in hub.requests)
    assert not any(secret in asked.body for asked in hub.requests)


def test_a_push_that_fails_leaves_the_run_and_its_neighbours_untouched(hub, shell, run):
    before = digest(run.dir.parent)
    hub.fail("POST", "/commit/", status=403)
    out, err = shell.push(REPO, "--json", code=1)
    assert "refused it (403)" in json.loads(out)["error"]
    assert json.loads(out)["error"] in err
    assert digest(run.dir.parent) == before
    assert [path.name for path in run.dir.parent.iterdir()] == [run.dir.name]


@pytest.mark.parametrize(
    ("words", "token", "said"),
    [
        (["bot"], TOKEN, "has no owner. Write user/name"),
        (["bea/bot"], TOKEN, "Push to anna/bot"),
        ([REPO], None, "Nobody is signed in"),
        ([REPO, "--card", "missing.md"], TOKEN, "--card missing.md cannot be read"),
    ],
    ids=["form", "owner", "token", "card"],
)
def test_what_cannot_be_pushed_is_bad_input_and_sends_nothing(hub, shell, words, token, said):
    assert said in shell.push(*words, code=2, token=token)[1]
    assert not hub.repos and not hub.asked("PUT", "")


def test_an_existing_repo_is_replaced_only_by_its_name(hub, shell):
    hub.add_repo(REPO, {"README.md": b"somebody's"})
    assert f"add --yes-overwrite {REPO}," in shell.push(REPO, code=2)[1]
    assert hub.repos[REPO].contents()["README.md"] == b"somebody's"
    assert f"Pushed to {hub.url}/{REPO}" in shell.push(REPO, "--yes-overwrite", REPO)[0]
    assert b"somebody's" not in hub.repos[REPO].contents()["README.md"]


def test_a_card_of_ones_own_is_pushed_as_it_is(hub, shell):
    (shell.here / "mine.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    shell.push(REPO, "--card", "mine.md", "--public")
    assert hub.repos[REPO].contents()["README.md"] == b"---\nlicense: mit\n---\n# Mine\n"
    assert not hub.repos[REPO].private


def test_ctrl_c_ends_the_push_and_its_process(hub, shell, run):
    hub.fail("PUT", "/objects/", hangs=True)
    process = shell.start(REPO)
    until = time.monotonic() + 30
    while not hub.asked("PUT", "/objects/"):
        assert time.monotonic() < until
        time.sleep(0.02)
    uploading = family(process.pid)[1:]
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 3, err
    assert "Push again to go on" in err
    assert uploading and not any(Path(f"/proc/{pid}").exists() for pid in uploading)
    assert [path.name for path in run.dir.parent.iterdir()] == [run.dir.name]
