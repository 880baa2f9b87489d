"""Uploads: kept once, inside their folder, for as long as a run needs them."""

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from tuner.errors import DatasetError
from tuner.ui.uploads import FOLDER, KEPT_SECONDS, keep_uploads, remove_old_uploads


@pytest.fixture
def runs_dir(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def server(tmp_path):
    """Writes a file as a server does with an upload: each in a folder of its own."""
    made = []

    def write(name, content="a,b\n1,2\n"):
        folder = tmp_path / "server" / str(len(made))
        folder.mkdir(parents=True)
        path = folder / name
        path.write_text(content)
        made.append(path)
        return path

    return write


def kept(runs_dir):
    return sorted(path.name for path in (runs_dir / FOLDER).iterdir())


def make_old(runs_dir, seconds=KEPT_SECONDS + 60):
    for folder in (runs_dir / FOLDER).iterdir():
        os.utime(folder, (time.time() - seconds,) * 2)


def test_a_file_is_kept_under_its_own_name_beside_the_runs(runs_dir, server):
    source = keep_uploads([str(server("support.csv"))], runs_dir)
    assert source.name == "support.csv"
    assert source.parents[1] == runs_dir / FOLDER
    assert source.read_text() == "a,b\n1,2\n"


def test_a_kept_file_outlives_the_servers(runs_dir, server):
    path = server("support.csv")
    source = keep_uploads([path], runs_dir)
    path.unlink()
    assert source.is_file()


def test_the_same_contents_are_kept_once(runs_dir, server):
    first = keep_uploads([server("support.csv")], runs_dir)
    assert keep_uploads([server("support.csv")], runs_dir) == first
    assert len(kept(runs_dir)) == 1


def test_other_contents_or_another_name_are_another_upload(runs_dir, server):
    sources = [
        keep_uploads([server("support.csv")], runs_dir),
        keep_uploads([server("support.csv", "a,b\n1,3\n")], runs_dir),
        keep_uploads([server("support.tsv")], runs_dir),
        keep_uploads([server("support.csv"), server("more.csv")], runs_dir),
    ]
    assert len({source if source.is_dir() else source.parent for source in sources}) == 4


def test_two_files_are_never_taken_for_one_that_holds_both(runs_dir, server):
    both = keep_uploads([server("a", "x"), server("b", "y")], runs_dir)
    one = keep_uploads([server("a", "xb\0y")], runs_dir)
    assert one.parent != both
    assert one.read_text() == "xb\0y"


def test_several_files_become_one_folder(runs_dir, server):
    folder = keep_uploads([server("a.csv", "1"), server("b.csv", "2")], runs_dir)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "a.csv": "1",
        "b.csv": "2",
    }


def test_files_of_the_same_name_are_all_kept(runs_dir, server):
    names = ["3-a.csv", "a.csv", "a.csv", "a.csv", "2-a.csv"]
    files = [server(name, str(number)) for number, name in enumerate(names)]
    folder = keep_uploads(files, runs_dir)
    assert sorted(path.read_text() for path in folder.iterdir()) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("..\\..\\evil.csv", "evil.csv"),
        ("C:\\data\\support.csv", "support.csv"),
        ("C:", "data"),
        (".bashrc", "bashrc"),
        ("...", "data"),
        ("..csv", "csv"),
        ("Köln — 日本語 👩‍🚀.csv", "Köln — 日本語 👩‍🚀.csv"),
        ("with space & 'quote'.csv", "with space & 'quote'.csv"),
        ("-rf", "-rf"),
        ("$(id).csv", "$(id).csv"),
    ],
)
def test_a_name_never_leads_out_of_the_folder(runs_dir, server, name, shown):
    for files in ([server(name)], [server(name), server("other.csv")]):
        source = keep_uploads(files, runs_dir)
        folder = source if source.is_dir() else source.parent
        assert folder.parent == runs_dir / FOLDER
        assert shown in [path.name for path in folder.iterdir()]
    everything = {path.name for path in runs_dir.parent.rglob("*") if path.is_file()}
    assert everything <= {name, shown, "other.csv"}


def test_no_file_is_a_sentence(runs_dir):
    with pytest.raises(DatasetError, match="No file was given"):
        keep_uploads([], runs_dir)
    assert not runs_dir.exists()


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(runs_dir, server, monkeypatch):
    def full(source, target):
        Path(target).write_text("a,")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DatasetError) as error:
        keep_uploads([server("a.csv")], runs_dir)
    assert str(error.value) == (
        f"The upload cannot be kept in {runs_dir}: No space left on device. Make room on the disk."
    )
    assert kept(runs_dir) == []
    monkeypatch.undo()
    assert keep_uploads([server("a.csv")], runs_dir).read_text() == "a,b\n1,2\n"


def test_a_file_that_is_gone_is_a_sentence(runs_dir, tmp_path):
    with pytest.raises(DatasetError, match="No such file"):
        keep_uploads([tmp_path / "gone.csv"], runs_dir)


def test_who_uploads_the_same_at_the_same_moment_gets_the_same(runs_dir, server, monkeypatch):
    files = [server("a.csv", "x" * 1000) for _ in range(6)]
    together, copy = threading.Barrier(6), shutil.copyfile

    def at_once(source, target):
        together.wait(10)  # nobody has found the others' copy by now
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", at_once)
    found = []
    threads = [
        threading.Thread(target=lambda file=file: found.append(keep_uploads([file], runs_dir)))
        for file in files
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == len(kept(runs_dir)) == 1


def test_what_nobody_used_for_a_week_is_removed(runs_dir, server):
    keep_uploads([server("old.csv", "old")], runs_dir)
    make_old(runs_dir)
    new = keep_uploads([server("new.csv", "new")], runs_dir)
    remove_old_uploads(runs_dir, [])
    assert kept(runs_dir) == [new.parent.name]


def test_what_is_uploaded_again_stays_for_another_week(runs_dir, server):
    keep_uploads([server("a.csv")], runs_dir)
    make_old(runs_dir)
    source = keep_uploads([server("a.csv")], runs_dir)
    remove_old_uploads(runs_dir, [])
    assert source.is_file()


def test_what_a_run_names_stays_however_old_it_is(runs_dir, server):
    file = keep_uploads([server("a.csv", "1")], runs_dir)
    folder = keep_uploads([server("b.csv", "2"), server("c.csv", "3")], runs_dir)
    keep_uploads([server("d.csv", "4")], runs_dir)
    make_old(runs_dir)
    remove_old_uploads(runs_dir, [str(file), str(folder), "", "presets/data/code.jsonl"])
    assert kept(runs_dir) == sorted([file.parent.name, folder.name])


def test_what_a_broken_copy_left_goes_after_a_week_too(runs_dir, server):
    keep_uploads([server("a.csv")], runs_dir)
    (runs_dir / FOLDER / ".0123456789ab").mkdir()
    make_old(runs_dir)
    remove_old_uploads(runs_dir, [])
    assert kept(runs_dir) == []


def test_without_uploads_there_is_nothing_to_remove(runs_dir):
    remove_old_uploads(runs_dir, [])
    assert not runs_dir.exists()
