"""The exported notebook: nbformat's rules are kept, and its cells train and answer."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest

from tests.export.prepared_runs import prepared_run, rows_of
from tests.tiny_models import CHAT_TEMPLATE, tiny_model
from tuner.export import notebook as notebooks
from tuner.export.notebook import notebook, notebook_text
from tuner.export.script_text import Script
from tuner.runs.store import Run

HOSTILE = "\"\"\" '''\\ {x} {{ y }} {% raw %}\n%pip install nothing\n!rm"

# Runs a notebook's code in one namespace, as Jupyter would, without its magics and the Hub.
RUN_CELLS = """
import json, sys
names = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code" and not cell["metadata"].get("tags"):
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("notebook")
    base = tiny_model(root, chat_template=None)  # so that the template is part of the export
    dataset = {"system_prompt": HOSTILE}
    return prepared_run(root, base, dataset=dataset, max_length=256, batch_size=2)


@pytest.fixture(scope="module")
def document(run) -> dict:
    return json.loads(notebook(run))


def code_of(document: dict) -> str:
    cells = (cell for cell in document["cells"] if cell["cell_type"] == "code")
    return "\n".join("".join(cell["source"]) for cell in cells)


def test_a_notebook_has_the_shape_of_nbformat_4_5(document):
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert document["metadata"]["kernelspec"]["name"] == "python3"
    identifiers = [cell["id"] for cell in document["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", identifier) for identifier in identifiers)
    for cell in document["cells"]:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"id", "cell_type", "metadata", "source"} | code
        assert cell["cell_type"] in ("code", "markdown")
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert cell["source"] and not cell["source"][-1].endswith("\n")


def test_a_notebook_is_the_scripts_own_code(run, document):
    facts, _ = rows_of(run)
    script, code = Script(run, facts), code_of(document)

    for block in ("imports", "tokens", "data", "model", "trainer", "train", "chat"):
        assert script.block(block) in code
    assert "HERE = Path()" in code and "__file__" not in code


def test_the_cells_run_in_order_train_and_answer(run, document, tmp_path):
    path = tmp_path / "orders.ipynb"
    path.write_text(json.dumps(document))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["BASE_MODEL"] = run.recipe().base_model

    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN_CELLS, str(path)],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "output" / "adapter" / "adapter_model.safetensors").is_file()
    state = json.loads((tmp_path / "output" / "trainer_state.json").read_text())
    assert state["global_step"] == run.recipe().max_steps
    assert "> Where is order 74?" in done.stdout
    stored = [json.loads(line) for line in (run.data_dir / "train.jsonl").open()]
    written = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").open()]
    assert written == [{"messages": row["messages"]} for row in stored]
    assert written[0]["messages"][0]["content"] == HOSTILE


def test_peoples_text_begins_no_line_of_a_cell(document):
    for cell in document["cells"]:
        if cell["cell_type"] == "code" and cell["metadata"].get("tags") != ["install"]:
            ast.parse("".join(cell["source"]))
            assert not any(line.startswith(("%", "!")) for line in cell["source"])


def test_large_data_and_the_practice_model_are_asked_for_instead_of_embedded(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "EMBEDDED_BYTES", 1000)
    run = prepared_run(tmp_path, "starter")

    document = json.loads(notebook_text(run, *rows_of(run)))

    code = code_of(document)
    assert "Order 37 left" not in code
    cell = next(c for c in document["cells"] if "FileNotFoundError" in "".join(c["source"]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data/eval.jsonl.*data/train.jsonl.*base"):
        exec("".join(cell["source"]), {})  # noqa: S102 (our own text)


def test_a_chat_template_stands_in_the_notebook_where_the_base_has_none(document, tmp_path):
    assert "### Response" in code_of(document)
    (tmp_path / "with").mkdir()
    base = tiny_model(tmp_path / "with", chat_template=CHAT_TEMPLATE)
    run = prepared_run(tmp_path, base)
    with_own = code_of(json.loads(notebook_text(run, *rows_of(run))))
    assert "chat_template =" not in with_own
