"""
Small files that unfold into more than a machine has: recipes, Parquet, JSON.

Zips, gzip and CSV without end are tried in data/test_archives.py and data/test_files.py.
"""

import resource
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.data.written import read
from tuner.cli import app
from tuner.errors import DatasetError, RecipeError
from tuner.recipe import load_recipe, parse_setting
from tuner.ui.draft import read_draft

NINE = ", ".join(["{0}"] * 9)
LETTERS = "abcdefghij"
LAUGHS = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{NINE.format(f'*{before}')}]\n" for before, name in pairwise(LETTERS)
)
BOMBS = {
    "aliases": LAUGHS.replace("\nj:", "\nlora:"),
    "aliases of groups": "lora: &a {x: 1}\ndataset: {a: *a, b: *a}\n",
    "an alias of itself": "sample_prompts: &a [*a]\n",
    "depth": "max_steps: " + "[" * 1000,
    "depth of groups": "lora: " + "{a: " * 1000,
    "a number": "seed: " + "9" * 5000,
    "a program": "seed: !!python/object/apply:os.mkdir [ran]\n",
    "a module": "seed: !!python/module:evil\n",
    "a time that is none": "seed: !!timestamp x\n",
    "a truth that is none": "packing: !!bool x\n",
}


@pytest.fixture(autouse=True)
def _little_time(tmp_path, monkeypatch):
    """What unfolds all the same ends this process, and not the machine."""
    monkeypatch.chdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_CPU)
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 60, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CPU, before)


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_a_recipe_that_unfolds_is_a_sentence_in_the_shell_and_on_the_page(text, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as refused:
        load_recipe(path)
    assert len(str(refused.value)) < 500
    found = read_draft(text)
    assert found.recipe is None and len(found.problems) == 1
    done = CliRunner().invoke(app, ["train", "--recipe", str(path), "--runs-dir", "runs"])
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert {entry.name for entry in tmp_path.iterdir()} == {"recipe.yaml"}


@pytest.mark.parametrize(
    "value", ["[&a [x], *a, *a]", "!!python/name:os.system", "[" * 1000, "9" * 5000, "!!bool x"]
)
def test_a_setting_that_unfolds_stays_text(value):
    assert parse_setting(f"sample_prompts={value}")[1] in (value, 10**5000)


def parquet(path, kilobytes, rows, **options):
    """One text in every row, which Parquet writes once."""
    text = pa.array(["x" * 1000 * kilobytes])
    often = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), text)
    columns = {"prompt": often, "answer": pa.array(["a"] * rows)}
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_a_parquet_file_of_one_text_in_a_million_rows_is_refused(tmp_path):
    path = parquet(tmp_path / "bomb.parquet", kilobytes=200, rows=1000)
    assert path.stat().st_size < 50_000
    with pytest.raises(DatasetError, match=r"bomb\.parquet unpacks to more than"):
        read(path)
    with pa.OSFile(str(tmp_path / "bomb.arrow"), "wb") as file:
        found = pq.read_table(path)
        with pa.ipc.new_file(file, found.schema) as writer:
            writer.write_table(found)
    assert (tmp_path / "bomb.arrow").stat().st_size < 400_000
    with pytest.raises(DatasetError, match=r"bomb\.arrow unpacks to more than"):
        read(tmp_path / "bomb.arrow")


def test_a_system_prompt_in_every_row_is_no_bomb(tmp_path):
    rows, _ = read(parquet(tmp_path / "rows.parquet", kilobytes=1, rows=2000))
    assert len(rows) == 2000 and rows[7].values == {"prompt": "x" * 1000, "answer": "a"}


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000], ids=["lists", "objects"])
def test_json_without_end_is_a_sentence(tmp_path, text):
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(DatasetError, match="nested too deeply"):
        read(tmp_path / "deep.json")


def test_a_line_of_json_without_end_is_a_bad_row(tmp_path):
    (tmp_path / "deep.jsonl").write_text('{"prompt":' + "[" * 200_000 + "\n")
    rows, source = read(tmp_path / "deep.jsonl")
    assert rows == [] and "nested too deeply" in source.bad_rows[0].reason
