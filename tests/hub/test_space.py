"""What kind of place this is, and where on it libraries keep their files."""

import os
import subprocess
import sys

import pytest

from tuner.data.sources import PROJECT_ROOT
from tuner.hub.space import CACHES, disk_is_temporary, is_space, on_zero_gpu, settle_storage

NOBODYS_HOME = "/dev/null/home"


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """A machine with a home, where nothing is set."""
    for name in (*CACHES, "SPACE_ID", "SPACES_ZERO_GPU"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TUNER_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "home").mkdir()
    return tmp_path


def settled() -> dict[str, str]:
    """The settings of libraries that are set."""
    return {name: os.environ[name] for name in CACHES if os.environ[name]}


@pytest.mark.parametrize(
    ("space", "zero", "storage", "is_one", "borrows", "is_temporary"),
    [
        ("", "", False, False, False, False),
        ("", "true", False, False, False, False),
        ("anna/tuner", "", False, True, False, True),
        ("anna/tuner", "true", True, True, True, False),
        ("anna/tuner", "false", True, True, False, False),
    ],
)
def test_a_place_is_known_by_its_environment(
    place, monkeypatch, space, zero, storage, is_one, borrows, is_temporary
):
    monkeypatch.setenv("SPACE_ID", space)
    monkeypatch.setenv("SPACES_ZERO_GPU", zero)
    if storage:
        (place / "data").mkdir()
    assert (is_space(), on_zero_gpu(), disk_is_temporary()) == (is_one, borrows, is_temporary)


def test_on_ones_own_machine_nothing_is_moved(place):
    (place / "data").mkdir()
    assert settle_storage() == []
    assert settled() == {}
    assert list((place / "home").iterdir()) == []  # it was tried without a trace


def test_with_storage_models_and_uploads_outlive_a_restart(place, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "anna/tuner")
    (place / "data").mkdir()
    assert settle_storage() == []
    assert settled() == {
        "HF_HOME": str(place / "data" / "huggingface"),
        "GRADIO_TEMP_DIR": str(place / "data" / "uploads"),
    }


def test_what_somebody_has_set_stays(place, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "anna/tuner")
    monkeypatch.setenv("HF_HOME", "/models")
    (place / "data").mkdir()
    assert settle_storage() == []
    assert settled()["HF_HOME"] == "/models"


def test_a_home_that_cannot_be_written_is_done_without_and_that_is_said(place, monkeypatch):
    monkeypatch.setenv("HOME", NOBODYS_HOME)
    (notice,) = settle_storage()
    assert notice.startswith(f"{NOBODYS_HOME}/.cache cannot be written, so models and data sets")
    assert set(settled()) == set(CACHES)
    assert len({os.path.dirname(path) for path in settled().values()}) == 1  # noqa: PTH120


def test_with_storage_a_home_that_cannot_be_written_is_no_matter(place, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "anna/tuner")
    monkeypatch.setenv("HOME", NOBODYS_HOME)
    (place / "data").mkdir()
    assert settle_storage() == []
    assert settled()["HF_HOME"] == str(place / "data" / "huggingface")
    assert settled()["MPLCONFIGDIR"].endswith("matplotlib")


def test_storage_is_settled_before_a_library_reads_where_it_is():
    seen = (
        "import sys\n"
        "from tuner.hub.space import settle_storage\n"
        "settle_storage()\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'gradio', 'torch', "
        "'huggingface_hub', 'matplotlib'}))"
    )
    command = [sys.executable, "-c", seen]
    done = subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
