"""
The rows of a run for a script of its own, and how that script makes tokens of them:

    python -m tuner.export.rows RUN_DIR OUT_DIR

Writes OUT_DIR/train.jsonl and eval.jsonl (the rows that train, in their order, without the names
of files they came from) and facts.json (script_text.RowFacts). Several ways to write the script's
tokenizing are tried, the plainest first. One is taken only when the very code that is exported
gives every row the token ids and labels that training gave it.
A process of its own, because it loads the tokenizer's library, which the page must not.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tuner.data.data_report import load_report
from tuner.errors import RunError, TunerError
from tuner.export.script_text import RowFacts, facts_of, render_block, require_decided
from tuner.runs.store import Run

PROJECT_ROOT = Path(__file__).parents[2]
FACTS, ERROR = "facts.json", "error.txt"
SIDES = ("train.jsonl", "eval.jsonl")
PATIENCE_SECONDS = 600.0  # usually it takes 5, and a millisecond a row
ROW_SECONDS = 0.02
TRIED_ROWS = 200  # on which the ways are told apart, before one is held against every row

# How answers are found, and what ends them: the plainest first.
WAYS = [
    *(("prefix", "stop"), ("prefix", "eos")),
    *(("marks", "eos"), ("marks", "stop")),
    *(("checked", "stop"), ("checked", "eos")),
]
PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SYSTEM_PROBE = [{"role": "system", "content": "s"}, *PROBE]

Row = dict[str, Any]
Tokens = dict[str, Any]


def exported_rows(run: Run) -> tuple[RowFacts, dict[str, bytes]]:
    """What the rows ask of a script, and data/train.jsonl and data/eval.jsonl.

    Raises:
        RunError: The run is not prepared, or no plain code gives its rows the same labels.
    """
    require_decided(run, run.recipe())
    path = os.pathsep.join([str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tuner.export.rows", str(run.dir.absolute()), folder],
                check=False,
                capture_output=True,
                env=environment,
                timeout=_patience(run),
            )
        except subprocess.TimeoutExpired as late:
            raise RunError(
                f"The rows of run {run.id} took more than {late.timeout / 60:.0f} minutes to look "
                "at. Export it on a machine that does less beside, or export the adapter."
            ) from None
        out = Path(folder)
        if done.returncode:
            raise RunError(_reason(out, run, done.stderr.decode(errors="replace")))
        return read_rows(out)


def _patience(run: Run) -> float:
    """Seconds that the child may take: the template is a program of whoever made the model."""
    report = load_report(run.data_dir)
    rows = report["train_rows"] + report["eval_rows"] if report else 0
    return PATIENCE_SECONDS + ROW_SECONDS * rows


def read_rows(out: Path) -> tuple[RowFacts, dict[str, bytes]]:
    """What `write_rows` wrote, by the paths of an export; a side without rows is left out."""
    facts = facts_of((out / FACTS).read_text(encoding="utf-8"))
    files = {side: (out / side).read_bytes() for side in SIDES if (out / side).stat().st_size}
    return facts, {f"data/{side}": content for side, content in files.items()}


def write_rows(run: Run, out: Path) -> None:
    """The child's work; see the head of this file."""
    from tuner.data.rendering import Renderer

    recipe = run.recipe()
    renderer = Renderer(_tokenizer(run), recipe.max_length)
    facts = first_facts(renderer, next(_stored(run.data_dir / SIDES[0])))
    with tempfile.TemporaryDirectory(dir=out) as aside:
        for side in SIDES:
            _write_side(run.data_dir / side, Path(aside) / side, renderer, facts)
        facts = _choose(facts, renderer, Path(aside) / SIDES[0])
        counts = []
        for side in SIDES:
            counts.append(_require_same(facts, renderer, Path(aside) / side))
            os.replace(Path(aside) / side, out / side)
    facts = replace(facts, train_rows=counts[0], eval_rows=counts[1])
    (out / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")


def first_facts(renderer: Any, row: Row) -> RowFacts:
    """What the tokenizer says; how answers are found is open yet."""
    from tuner.data.examples import kind_of
    from tuner.data.tokenizer import PLAIN_TEMPLATE, adds_bos

    tokenizer = renderer.tokenizer
    trained = [label for label in renderer.render({"messages": PROBE}).labels if label >= 0]
    own = tokenizer.chat_template.endswith(PLAIN_TEMPLATE)
    return RowFacts(
        kind=kind_of(row),
        labels="",
        ending="",
        stop=tokenizer.convert_ids_to_tokens(trained[-1]),
        stop_tokens=tokenizer.convert_ids_to_tokens(renderer.stop_token_ids),
        adds_bos=adds_bos(tokenizer),
        pad_is_eos=tokenizer.pad_token == tokenizer.eos_token,
        merges_system=_refuses(tokenizer, SYSTEM_PROBE),
        chat_template=tokenizer.chat_template if own else None,
        train_rows=0,
        eval_rows=0,
    )


def tokenizing(facts: RowFacts, tokenizer: Any, max_length: int) -> Callable[[Row], Tokens]:
    """The script's own `tokenize`, from the text that is exported."""
    names: dict[str, Any] = {"tokenizer": tokenizer, "STOP": facts.stop, "MAX_LENGTH": max_length}
    code = render_block("tokens", asdict(facts))
    exec(compile(code, "train.py", "exec"), names)  # noqa: S102 (our template, with nobody's text in it)
    tokenize: Callable[[Row], Tokens] = names["tokenize"]
    return tokenize


def _tokenizer(run: Run) -> Any:
    """The one that the run saved; a run that has not saved any, its base's."""
    from tuner.data.tokenizer import load_tokenizer
    from tuner.starter import STARTER_DIR

    for folder in (run.adapter_dir, run.model_dir):
        if folder.is_dir():
            return load_tokenizer(str(folder))
    recipe = run.recipe()
    name = str(STARTER_DIR) if recipe.base_model == "starter" else recipe.base_model
    return load_tokenizer(name, recipe.revision)


def _refuses(tokenizer: Any, messages: list[Row]) -> bool:
    from jinja2.exceptions import TemplateError

    from tuner.data.chat_template import ChatTemplate

    try:
        ChatTemplate(tokenizer).render(messages)
    except TemplateError:
        return True
    return False


def _write_side(stored: Path, out: Path, renderer: Any, facts: RowFacts) -> None:
    """Copy the rows that train, as the script is to read them."""
    with out.open("w", encoding="utf-8") as lines:
        for row in _stored(stored):
            if trained_tokens(renderer, row) is not None:
                lines.write(json.dumps(_plain(row, facts), ensure_ascii=False) + "\n")


def _plain(row: Row, facts: RowFacts) -> Row:
    """A row without its source, its system message where the chat template can have it."""
    from tuner.data.rendering import merge_system_message

    content = {name: value for name, value in row.items() if name != "source"}
    opening = "messages" if "messages" in content else "prompt"
    if facts.merges_system and opening in content:
        content[opening] = merge_system_message(content[opening])
    return content


def trained_tokens(renderer: Any, row: Row) -> Tokens | None:
    """The columns that training made of one row; None where the row does not train."""
    from tuner.data.tokenized import TokenReport, tokenize_rows

    columns = tokenize_rows([row], renderer, TokenReport())
    first = {name: values[0] for name, values in columns.items() if values}
    return first or None


def _choose(facts: RowFacts, renderer: Any, rows: Path) -> RowFacts:
    """The plainest way that gives the first rows what training gave them."""
    if facts.kind == "text":
        return replace(facts, labels="all", ending="eos")
    ways = WAYS if facts.kind == "sft" else WAYS[:2]
    for labels, ending in ways:
        candidate = replace(facts, labels=labels, ending=ending)
        if _first_difference(candidate, renderer, islice(_stored(rows), TRIED_ROWS)) is None:
            return candidate
    raise RunError(_inexpressible("none of its first rows"))


def _require_same(facts: RowFacts, renderer: Any, rows: Path) -> int:
    """Hold the script's code against every row; returns how many there are."""
    if (line := _first_difference(facts, renderer, _stored(rows))) is not None:
        raise RunError(_inexpressible(f"row {line} of {rows.name}"))
    return sum(1 for _ in _stored(rows))


def _first_difference(facts: RowFacts, renderer: Any, rows: Iterator[Row]) -> int | None:
    """Number of the first row whose tokens or labels differ, counted from 1."""
    tokenize = tokenizing(facts, renderer.tokenizer, renderer.max_length)
    for number, row in enumerate(rows, start=1):
        try:
            made = tokenize(row)
        except Exception:  # noqa: BLE001 (any template may fail in any way: then it is no match)
            return number
        if "labels" in made:  # pairs are cut by the script, these by trl
            made = {name: ids[: renderer.max_length] for name, ids in made.items()}
        if made != trained_tokens(renderer, row):
            return number
    return None


def _inexpressible(which: str) -> str:
    return (
        f"The base model's chat template cannot be repeated in plain code: for {which}, "
        "the script's labels are not those of the run. Export the merged weights or the adapter "
        "instead, or train with a base_model whose chat template keeps earlier turns as they are."
    )


def _stored(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _reason(out: Path, run: Run, log: str) -> str:
    try:
        return (out / ERROR).read_text(encoding="utf-8")
    except OSError:
        last = (log.strip().splitlines() or ["it ended without a word"])[-1]
        return f"The rows of run {run.id} could not be read for a script: {last[:300]}"


def main(run_dir: str, out: str) -> int:
    """Write the rows; where that is impossible, the reason to OUT_DIR/error.txt."""
    try:
        write_rows(Run(Path(run_dir)), Path(out))
    except TunerError as error:
        (Path(out) / ERROR).write_text(str(error), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
