"""
Rows for races: this project's own code, so that lengths are real ones and nothing is downloaded.

Rows never exceed the race's max_length, since tools cut longer ones differently: trl and we at the
end, LLaMA-Factory prompt and answer in proportion.
"""

import ast
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.data.tokenizer import load_tokenizer
from tuner.starter import STARTER_DIR

SOURCES = Path(__file__).resolve().parent.parent / "tuner"
Row = dict[str, list[dict[str, str]]]


@dataclass(frozen=True)
class Rows:
    """A data set on disk.

    Attributes:
        mean: Tokens of a row.
        trained: Share of the tokens that is answer.
    """

    path: Path
    count: int
    mean: float
    trained: float


def rows_of(path: Path) -> Iterator[Row]:
    """Rows of somebody's own."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def functions() -> Iterator[Row]:
    """Documented functions: asked for by their module's words and their own."""
    for path in sorted(SOURCES.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        module = ast.parse(source)
        about = ast.get_docstring(module) or ""
        for node in ast.walk(module):
            told = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if told:
                text = ast.get_source_segment(source, node) or ""
                yield row(f"{about}\n\n{told.splitlines()[0]}", text)


def pieces(length: int, count: int, seed: int = 0) -> list[Row]:
    """Pieces of source of at most `length` tokens, and of no less than three quarters of it.

    The first half of its lines asks for the rest, so about half of the tokens train at any length.
    """
    lines = [
        line
        for path in sorted(SOURCES.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    tokenizer = load_tokenizer(str(STARTER_DIR))
    places = random.Random(seed)
    found: list[Row] = []
    while len(found) < count:
        made = halved(lines[places.randrange(len(lines)) :][: length // 4])
        # Shorter by what it is too long, and again, since lines differ.
        while (tokens := sum(tokens_of(made, tokenizer))) > length:
            whole = [*texts(made)[0].splitlines(), *texts(made)[1].splitlines()]
            made = halved(whole[: min(len(whole) - 1, len(whole) * length // tokens)])
        if all(texts(made)) and tokens >= 0.75 * length:
            found.append(made)
    return found


def halved(lines: list[str]) -> Row:
    """What goes before, and what follows."""
    middle = len(lines) // 2
    return row("\n".join(lines[:middle]), "\n".join(lines[middle:]))


def texts(each: Row) -> tuple[str, str]:
    """What is asked, and the answer."""
    return each["prompt"][0]["content"], each["completion"][0]["content"]


def row(asked: str, answered: str) -> Row:
    """One row in trl's format; stripped for all, as we strip texts."""
    return {
        "prompt": [{"role": "user", "content": asked.strip()}],
        "completion": [{"role": "assistant", "content": answered.strip()}],
    }


def write_rows(found: Iterable[Row], path: Path, max_length: int) -> Rows:
    """Write the rows that fit, and tell what they are; all racers' models have this tokenizer."""
    tokenizer = load_tokenizer(str(STARTER_DIR))
    asked = answered = 0
    fitting = []
    for each in found:
        prompt, completion = tokens_of(each, tokenizer)
        if prompt + completion <= max_length:
            asked, answered = asked + prompt, answered + completion
            fitting.append(json.dumps(each))
    path.write_text("\n".join(fitting) + "\n", encoding="utf-8")
    total = asked + answered
    return Rows(path, len(fitting), total / len(fitting), answered / total)


def tokens_of(each: Row, tokenizer: Any) -> tuple[int, int]:
    """Tokens of the prompt, and of the answer with its end."""
    prompt = tokenizer.apply_chat_template(
        each["prompt"], add_generation_prompt=True, tokenize=False
    )
    whole = tokenizer.apply_chat_template(each["prompt"] + each["completion"], tokenize=False)
    before, after = (
        len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (prompt, whole)
    )
    return before, after - before
