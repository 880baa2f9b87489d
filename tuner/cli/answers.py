"""
What a command says: one JSON document or text on stdout, foreseen problems as sentences on stderr.

A command returns an Answer and raises TunerError; `answering` turns both into output and an exit
code: 0 done, 1 failed, 2 bad input (nothing was started), 3 stopped.
"""

import functools
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Any

import typer

from tuner.errors import DatasetError, ModelError, RecipeError, RunError, TunerError

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 3
BAD_INPUT_ERRORS = (RecipeError, DatasetError, ModelError, RunError)


@dataclass(frozen=True)
class Answer:
    """What a command found or did.

    Attributes:
        document: What --json prints.
        text: What a person reads; empty says nothing.
        problems: Sentences for stderr, where it did not go well.
    """

    document: Any
    text: str = ""
    exit_code: int = DONE
    problems: tuple[str, ...] = ()


def answering(command: Callable[..., Answer]) -> Callable[..., None]:
    """Make a command that returns an Answer into one that typer can run."""

    @functools.wraps(command)
    def run(*args: Any, as_json: bool, **options: Any) -> None:
        try:
            # A library that prints while it works must not spoil the one document.
            with redirect_stdout(sys.stderr) if as_json else nullcontext():
                answer = command(*args, as_json=as_json, **options)
        except TunerError as error:
            answer = _problem(error)
        _show(answer, as_json)
        raise typer.Exit(answer.exit_code)

    return run


def _problem(error: TunerError) -> Answer:
    """The document also says what went wrong, for programs that read stdout alone."""
    return Answer(
        {"error": str(error), "problems": error.problems},
        exit_code=BAD_INPUT if isinstance(error, BAD_INPUT_ERRORS) else FAILED,
        problems=tuple(error.problems),
    )


def _show(answer: Answer, as_json: bool) -> None:
    for sentence in answer.problems:
        print(sentence, file=sys.stderr)
    if as_json:
        print(json.dumps(answer.document, indent=2, ensure_ascii=False))
    elif answer.text:
        print(answer.text)
