"""A page that others can open reads them nothing of its machine but what is meant for them."""

from pathlib import Path

import pytest

from tuner.presets import load_preset
from tuner.recipe import make_recipe
from tuner.ui.paths import Paths
from tuner.ui.uploads import keep_uploads


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.csv"
    path.write_text("question,answer\na,b\n")
    return path


def recipe(source: str | Path, **settings: str):
    return make_recipe({**settings, "dataset": {"source": str(source)}})


def test_ones_own_page_reads_any_path(runs_dir, secret):
    assert Paths(runs_dir).problems(recipe(secret)) == []


def test_an_open_page_refuses_a_path_of_its_machine_and_says_what_to_do(runs_dir, secret):
    problems = Paths(runs_dir, any_path=False).problems(recipe(secret))
    assert len(problems) == 1
    assert problems[0].startswith(f"dataset.source={secret}")
    assert "Upload the file" in problems[0]


def test_an_open_page_reads_uploads_presets_and_hub_ids(runs_dir, secret):
    paths = Paths(runs_dir, any_path=False)
    assert paths.problems(recipe(keep_uploads([secret], runs_dir))) == []
    assert paths.problems(load_preset("code").recipe()) == []
    assert paths.problems(recipe("HuggingFaceH4/no_robots")) == []


def test_a_way_out_of_the_uploads_is_a_way_out(runs_dir, secret):
    kept = keep_uploads([secret], runs_dir)
    (kept.parent / "link.csv").symlink_to(secret)
    paths = Paths(runs_dir, any_path=False)
    assert paths.problems(recipe(kept.parent / "link.csv"))
    assert paths.problems(recipe(f"{kept.parent}/../../../secret.csv"))


def test_an_open_page_refuses_a_base_model_by_path_but_not_the_built_in_one(runs_dir, tmp_path):
    paths = Paths(runs_dir, any_path=False)
    assert paths.problems(recipe("x/y", base_model=str(tmp_path)))[0].startswith("base_model=")
    assert paths.problems(recipe("x/y", base_model="starter")) == []
    assert paths.problems(recipe("x/y", base_model="Qwen/Qwen3-0.6B")) == []


@pytest.mark.parametrize("base_model", ["~nobody/x", "m" * 5000, "a\0b"])
def test_a_name_that_can_be_no_path_is_left_to_the_lookup(runs_dir, base_model):
    assert Paths(runs_dir, any_path=False).problems(recipe("x/y", base_model=base_model)) == []
