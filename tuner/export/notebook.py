"""
A run as a Jupyter notebook: the training script's code in cells, with words between.

    Path("support-bot.ipynb").write_text(notebook(run))

Small data stands in a cell of its own; for larger data, and for a base model that is a folder, a
cell says what to upload and looks whether it is there. Format: nbformat 4.5
(https://nbformat.readthedocs.io/en/latest/format_description.html).
"""

import json
from typing import Any

from tuner.export.literals import literal
from tuner.export.rows import exported_rows
from tuner.export.script import in_markdown, versions
from tuner.export.script_text import RowFacts, Script
from tuner.runs.names import slug_of
from tuner.runs.store import Run

EMBEDDED_BYTES = 1_000_000  # of rows; more makes a notebook slow to open

WRITE_ROWS = '''
import json
from pathlib import Path

Path("data").mkdir(exist_ok=True)


def write_rows(file, rows):
    """One JSON object a line."""
    Path("data", file).write_text("".join(json.dumps(row) + "\\n" for row in rows))
'''
REQUIRE_FILES = """
from pathlib import Path

missing = [name for name in {names} if not Path(name).exists()]
if missing:
    raise FileNotFoundError(f"Upload {{missing}}: they are in the folder of the exported script.")
"""
ASK = "print(answer({question}))"
PUSH = """
from huggingface_hub import notebook_login

notebook_login()
"""
UPLOAD = """
REPO = {repo}  # yours: user/name, or a name alone

model.push_to_hub(REPO, private=True)
tokenizer.push_to_hub(REPO, private=True)
"""


def notebook(run: Run) -> str:
    """The notebook's JSON.

    Raises:
        RunError: As `script.training_script`.
    """
    return notebook_text(run, *exported_rows(run))


def notebook_text(run: Run, facts: RowFacts, rows: dict[str, bytes]) -> str:
    """The notebook of a run whose rows were looked at already."""
    script = Script(run, facts, notebook=True)
    cells = [
        _markdown(_title(run, facts)),
        _markdown("## Install\n\nThe versions that the run trained with."),
        _code("%pip install " + " ".join(script.requirements(versions(run))), "install"),
        *_data_cells(script, rows),
        *_training_cells(script),
        *_after_cells(run, script),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02}"
    document = {"cells": cells, "metadata": _metadata(), "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _title(run: Run, facts: RowFacts) -> str:
    return (
        f"# Run {in_markdown(run.id)}\n\nThe training of {facts.train_rows:,} rows, again: the "
        "same rows in the same order, the same labels and settings. Run the cells from the top."
    )


def _data_cells(script: Script, rows: dict[str, bytes]) -> list[dict[str, Any]]:
    """The rows themselves, or what to upload; the base too, where it is a folder."""
    embedded = sum(map(len, rows.values())) <= EMBEDDED_BYTES
    uploads = [] if embedded else sorted(rows)
    uploads += ["base"] if script.values["base_kind"] == "shipped" else []
    cells = []
    if uploads:
        names = ", ".join(f"`{name}`" for name in uploads)
        told = f"## Files\n\nUpload {names}. They are in the folder of the exported script."
        cells += [_markdown(told), _code(REQUIRE_FILES.format(names=literal(uploads)))]
    if embedded:
        cells += [_markdown("## Data\n\nOne row a line: change or add some."), _code(WRITE_ROWS)]
        cells += [_code(_rows_cell(path, content)) for path, content in rows.items()]
    return cells


def _rows_cell(path: str, content: bytes) -> str:
    rows = [json.loads(line) for line in content.decode().split("\n") if line]
    lines = "".join(f"    {row!r},\n" for row in rows)
    return f"write_rows({literal(path.rpartition('/')[2])}, [\n{lines}])"


def _training_cells(script: Script) -> list[dict[str, Any]]:
    sections = {
        "## Settings": ["imports", "settings"],
        "## Tokens\n\nWhich tokens train is said by `labels`: -100 is passed over by the loss.": [
            "tokenizer",
            "tokens",
        ],
        "Every row as tokens.": ["data"],
        "## Model": ["model"],
        "## Training": ["trainer"],
        "The loss of each step is printed; stop it with the square.": ["train"],
    }
    cells = []
    for words, blocks in sections.items():
        code = "\n\n\n".join(filter(None, map(script.block, blocks)))
        cells += [_markdown(words), _code(code)]
    return cells


def _after_cells(run: Run, script: Script) -> list[dict[str, Any]]:
    repo = literal(slug_of(run.id).encode("ascii", "ignore").decode().strip("-_") or "tuned-model")
    upload = UPLOAD.format(repo=repo)
    return [
        _markdown("## Chat with it"),
        _code(script.block("chat")),
        _code(ASK.format(question=literal(script.values["questions"][0], 13))),
        _markdown(
            "## Push it to the Hub\n\nLog in with a token that may write; the repo is private."
        ),
        _code(PUSH, "login"),
        _code(upload, "push"),
    ]


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(text)}


def _code(text: str, tag: str = "") -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": [tag]} if tag else {},
        "outputs": [],
        "source": _lines(text),
    }


def _lines(text: str) -> list[str]:
    """A cell's text as nbformat has it: lines with their ends, none after the last."""
    lines = text.strip("\n").split("\n")
    return [f"{line}\n" for line in lines[:-1]] + lines[-1:]


def _metadata() -> dict[str, Any]:
    return {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
