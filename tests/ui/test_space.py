"""
The real app as a Space runs it: from the files that a deploy uploads, with a Space's environment.

Not covered: who may do what there (test_roles.py), and the Hub's own proxy.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import expect

from tests.ui.browser import chromium, visiting
from tests.ui.pages import Page
from tuner.hub.deploy import SpacePlan, write_space
from tuner.presets import load_preset
from tuner.recipe import make_recipe, with_settings
from tuner.runs.launch import require_startable
from tuner.runs.process import birth
from tuner.runs.queue import enqueue
from tuner.runs.run import Run
from tuner.runs.store import RunStore

SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "anna/tuner",
    "SPACE_AUTHOR_NAME": "anna",
    "SPACE_REPO_NAME": "tuner",
    "SPACE_CREATOR_USER_ID": "user-anna",
    "SPACE_HOST": "anna-tuner.hf.space",
    "OAUTH_CLIENT_ID": "client",
    "OAUTH_CLIENT_SECRET": "secret",
    "OAUTH_SCOPES": "openid profile contribute-repos",
    "OPENID_PROVIDER_URL": "http://127.0.0.1:9",
    "GRADIO_SERVER_NAME": "127.0.0.1",
    "PYTHONPATH": "",  # the copy is all there is
    "TUNER_GRACE_SECONDS": "120",  # not what the usual half minute is enough for on a busy machine
}
NOBODYS_HOME = "/dev/null/home"  # nobody can write there, root included
# Takes little time to begin and to end, but for its steps.
LONG = {
    "max_steps": 100_000,
    "save_steps": 100_000,
    "eval_steps": 100_000,
    "sample_prompts": [],
    "dataset.max_rows": 40,
}
SECONDS = 120
# What serve() does, without what takes seconds to import.
ENDS_WELL = """
import sys, time
from pathlib import Path
from tuner.runs.store import RunStore
from tuner.ui.ending import ending_well
from tuner.ui.services import Services

services = Services.of(RunStore(Path(sys.argv[1])))
with ending_well(services):
    services.dispatcher.start()
    print("serves", flush=True)
    time.sleep(600)
print("ended")
"""
# On a Space, Gradio's own page asks the Hub whether the Space is awake.
ASKED_OF_THE_HUB = (
    "huggingface.co",
    "Content Security Policy",
    "Space not found",
    "Failed to load",
)
ERROR_OF_OURS = "/tuner/ui/"  # in a traceback; Gradio has one of its own on every Space


class Copy(Page):
    """The page from a folder that holds what is uploaded, its runs where the app puts them."""

    def __init__(self, folder: Path, runs_dir: Path, **environment: str):
        super().__init__(runs_dir, **environment)
        self.folder = folder

    def options(self) -> list[str]:
        return ["--port", str(self.port)]

    def train(self) -> Run:
        """Put a run in line, which the page starts, and wait for its first steps."""
        run = self.store.create(
            make_recipe(with_settings(load_preset("chatbot").values, LONG)), "long"
        )
        enqueue(self.store, run)
        until = time.monotonic() + SECONDS
        while not run.status()["step"]:
            assert run.status()["state"] in ("queued", "preparing", "running"), self.said()
            assert time.monotonic() < until
            time.sleep(0.05)
        return run

    def end(self) -> bool:
        """Ask it to end; whether it did, and nothing that it had started is left."""
        started = psutil.Process(self.pid).children(recursive=True)
        return self.terminate() == 0 and all(is_gone(process) for process in started)


def is_gone(process: psutil.Process) -> bool:
    """Whether a process ends soon, be it that nobody asks for its exit code."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """What a Space gets, and nothing else."""
    folder: Path = tmp_path_factory.mktemp("space") / "app"
    folder.mkdir()
    write_space(folder, SpacePlan("anna/tuner"))
    return folder


@pytest.fixture
def space(copy, tmp_path, monkeypatch) -> Any:
    """Makes a page of the copy, in a Space with or without a bucket on /data."""
    monkeypatch.delenv("HF_HOME")

    def make(runs_dir: Path, home: Path | str, **environment: str) -> Copy:
        places = {"HOME": str(home), "TUNER_DATA_DIR": str(tmp_path / "data")}
        return Copy(copy, runs_dir, **SPACE, **places, GRADIO_TEMP_DIR="", **environment)

    return make


def test_without_storage_and_with_a_home_that_cannot_be_written_the_page_serves_and_warns(
    space, copy
):
    with space(copy / "runs", NOBODYS_HOME) as page:
        assert "/dev/null/home/.cache cannot be written" in page.said()
        assert page.runs_dir.is_dir()
        with chromium() as browser, visiting(browser, page.url) as visit:
            visit.open()
            expect(visit.find("#tuner-space")).to_contain_text("disk of this Space is temporary")
            expect(visit.find("#tuner-space")).to_contain_text("Duplicate this Space")
            visit.forgive(*ASKED_OF_THE_HUB)
        assert page.end()
    assert ERROR_OF_OURS not in page.said()


def test_a_restart_stops_what_trains_and_leaves_it_on_the_storage_to_be_resumed(space, tmp_path):
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    data.mkdir()
    with space(data / "runs", home) as page:
        run, waiting = page.train(), page.store.create(make_recipe({"preset": "code"}), "next")
        enqueue(page.store, waiting)
        assert page.end()
        status = run.status()
        assert (status["state"], run.is_process_alive()) == ("stopped", False)
        assert status["reason"].startswith("The Space restarts. Stopped; the adapter of step ")
        assert status["reason"].endswith("Resume it to go on.")
        assert (run.adapter_dir / "adapter_model.safetensors").is_file()
        require_startable(run, resume=True)
        assert waiting.status()["state"] == "queued"  # it goes on with the next page
    assert list(home.iterdir()) == []
    assert "cannot be written" not in page.said() and ERROR_OF_OURS not in page.said()


def test_off_a_space_the_page_ends_and_its_runs_go_on(tmp_path, repository):
    store = RunStore(tmp_path / "runs")
    run = store.create(make_recipe({"preset": "chatbot"}), "elsewhere")
    training = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    began = birth(training.pid)
    run.update_status(
        state="running",
        pid=training.pid,
        pid_started=began.started,
        pid_started_after_boot=began.after_boot,
    )
    page = subprocess.Popen(
        [sys.executable, "-c", ENDS_WELL, str(store.root)],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert page.stdout and page.stdout.readline() == "serves\n"
        page.terminate()
        assert page.communicate(timeout=SECONDS)[0] == "ended\n"
        assert page.returncode == 0 and training.poll() is None
        assert run.status()["state"] == "running"
    finally:
        for process in (training, page):
            process.kill()
            process.wait()
