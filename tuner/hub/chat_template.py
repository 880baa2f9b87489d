"""
Render a chat template in a process of its own, which has little memory and little time:

    python -m tuner.hub.chat_template < task.json > texts.json

A template is a program, and one from the Hub may be anybody's: one that never ends would hold up
the page. So the page lets this process render it, in jinja2's sandbox, as transformers does. The
task names the template, its special tokens, the conversation to show and the day it takes for
today; the answer holds the conversation, the token that stops an answer, and the same template in
Ollama's language.

    from tuner.hub.chat_template import rendered
    rendered({"template": …, "tokens": …, "messages": …, "today": …})

Not covered: which text trains, and token ids (data/rendering.py).
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuner.errors import DatasetError
from tuner.export.ollama_template import ollama_template

PROJECT_ROOT = Path(__file__).resolve().parents[2]
CPU_SECONDS, SECONDS = 2, 15
MEMORY_BYTES = 1 << 30
LONGEST = 100_000  # characters that a short conversation may become
LOOKS_SPECIAL = re.compile(r"<[^<>\s]{1,40}>")

Messages = Sequence[Mapping[str, str]]


def rendered(task: Mapping[str, Any]) -> dict[str, Any] | None:
    """Let a child render; None where the template fails, or does not end.

    Args:
        task: `template`, `tokens` (by name), `special` (texts), `messages` (its last an answer),
            `today` (Unix seconds).

    Returns:
        `text`, `stop`, `ollama` (None where it cannot be said).
    """
    command = [sys.executable, "-m", "tuner.hub.chat_template"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(task).encode(),
            capture_output=True,
            cwd=PROJECT_ROOT,
            env={},  # whose tokens it need not know
            timeout=SECONDS,
            check=True,
        )
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer if isinstance(answer, dict) else None


class _Generation(Extension):
    """transformers' marks around what is trained, which render nothing themselves."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's way)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Renderer:
    def __init__(self, task: Mapping[str, Any]):
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        environment.filters["tojson"] = _tojson
        today = datetime.fromtimestamp(task["today"], UTC)
        environment.globals |= {"raise_exception": _raise, "strftime_now": today.strftime}
        self.template, self.tokens = environment.from_string(task["template"]), task["tokens"]

    def text(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        """As training renders: a template without a system role gets it in the first question."""
        try:
            return self._text(messages, add_generation_prompt)
        except TemplateError:
            merged = _merged(messages)
            if len(merged) == len(messages):
                raise
            return self._text(merged, add_generation_prompt)

    def prompt_text(self, messages: Messages) -> str:
        try:
            return self.text(messages, add_generation_prompt=True)
        except TemplateError as error:
            raise DatasetError(str(error)) from error

    def _text(self, messages: Messages, add_generation_prompt: bool) -> str:
        given = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        text = self.template.render(**given, **self.tokens)
        if len(text) > LONGEST:
            raise TemplateError("the text is too long")
        return text


def _answer(task: Mapping[str, Any]) -> dict[str, Any]:
    renderer = _Renderer(task)
    text = renderer.text(task["messages"])
    stop = _stop(text, task["messages"][-1]["content"], task["special"])
    if stop is None:  # as in training: an answer without a stop token gets the tokenizer's
        stop = task["tokens"].get("eos_token", "")
        text = text.rstrip() + stop
    bos = task["tokens"].get("bos_token", "")
    bos = bos if bos and text.startswith(bos) else ""
    return {"text": text, "stop": stop, "ollama": ollama_template(renderer.prompt_text, bos)}


def _stop(text: str, answer: str, special: Sequence[str]) -> str | None:
    """The special token that follows the answer."""
    rest = text[text.rfind(answer.strip()) + len(answer.strip()) :].lstrip()
    known = sorted((token for token in special if rest.startswith(token)), key=len)
    looks = LOOKS_SPECIAL.match(rest)
    return known[-1] if known else looks[0] if looks else None


def _merged(messages: Messages) -> list[Mapping[str, str]]:
    if len(messages) < 2 or [m["role"] for m in messages[:2]] != ["system", "user"]:
        return list(messages)
    content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": content}, *messages[2:]]


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _limit_this_process() -> None:
    try:
        import resource
    except ImportError:  # not on Windows; the time is bounded by whoever waits
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    _limit_this_process()
    try:
        json.dump(_answer(json.load(sys.stdin)), sys.stdout)
    except Exception as error:  # noqa: BLE001 (what a template raises is its own choice)
        sys.exit(f"{type(error).__name__}: {str(error)[:300]}")
