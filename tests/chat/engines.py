"""Engines without a model, in real processes: what a ChatClient starts in their tests."""

import sys
from typing import Any

import tuner.chat.client

# Says back what it is asked, a word at a time, as slowly as the question says: "0.05 one two".
ECHO = """
import os, sys, time
from types import SimpleNamespace
from tuner.chat.server import serve
from tuner.chat.voices import Piece
from tuner.errors import DatasetError, ModelError


def words(messages):
    return [word for message in messages for word in message["content"].split()]


class Echo:
    context_length = 1000
    renderer = SimpleNamespace(prompt_ids=words)

    def __init__(self, base):
        print("a stray print")
        os.system("echo a native print")
        if base.model == "missing":
            raise ModelError("There is no model missing.")
        self.base = base

    def attach(self, folder):
        if folder == "unfit":
            raise ModelError("unfit does not fit.")

    def score(self, messages, answer, voices):
        raise ModelError("Nothing can be scored.")

    def generate(self, rows, cancelled):
        began = time.monotonic()
        answers = [row.messages[-1]["content"].split() for row in rows]
        print("batch of", len(rows), "on", self.base.model, file=sys.stderr, flush=True)
        for number in range(max(map(len, answers))):
            for index, answer in enumerate(answers):
                if number >= len(answer) or answer is None:
                    continue
                if answer[number] == "memory":
                    raise RuntimeError("CPU out of memory: tried to allocate 9 GB")
                if answer[number] == "bug":
                    raise KeyError("bug")
                if answer[number] == "die":
                    os._exit(9)
                stopped, last = cancelled(index), number == len(answer) - 1
                seconds = time.monotonic() - began
                reason = "cancelled" if stopped else "stop token" if last else ""
                text = "" if stopped else f"{answer[number]} "
                yield Piece(index, text, stopped or last, reason, number + 1, seconds, 0.0)
                if stopped:
                    answers[index] = []
            time.sleep(max([float(a[0]) for a in answers if a and a[0][:2] == "0."], default=0))


idle = float(sys.argv[1]) if len(sys.argv) > 1 else None
serve(Echo, idle)
"""


def answers_as(monkeypatch: Any, source: str = ECHO) -> None:
    """Let a ChatClient start this Python source; argv[1] is idle_seconds."""

    def command(idle_seconds: float) -> list[str]:
        return [sys.executable, "-c", source, str(idle_seconds)]

    monkeypatch.setattr(tuner.chat.client, "command", command)
