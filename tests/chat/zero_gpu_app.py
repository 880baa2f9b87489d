"""
A ZeroGPU Space's page in a process of its own, asked in all ways; prints what came as JSON.

    PYTHONPATH=tests/fake_spaces SPACES_ZERO_GPU=true python -m tests.chat.zero_gpu_app RUNS ONE TWO

ONE and TWO are adapters of the practice model; a run named bot in RUNS has one, too.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
import gradio_client

from tests.ui.asking import asked
from tuner.chat.voices import Base, Row, Sampling, Voice
from tuner.errors import TunerError
from tuner.runs.store import RunStore
from tuner.ui.api import add_api
from tuner.ui.draft import DraftBox
from tuner.ui.fine_tune import build_fine_tune
from tuner.ui.form_events import FormEvents
from tuner.ui.services import Services

BASE = Base("starter", None, "none", "float32")
GREEDY = Sampling(24, temperature=0)
LONG = Sampling(400, temperature=0)
ASKED = ({"role": "user", "content": "Where is my order?"},)
RECIPE = "preset: chatbot\nbase_model: starter\ndataset: {source: presets/data/chatbot.jsonl}\n"
LONGER = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What colour is the sky in the morning, and why?"},
)


def rows(one: str, two: str) -> list[Row]:
    """Three voices, prompts of two lengths."""
    return [
        Row(Voice("base"), ASKED, GREEDY),
        Row(Voice("one", one), LONGER, GREEDY),
        Row(Voice("two", two), ASKED, GREEDY),
    ]


def texts(pieces: Any, count: int) -> list[str]:
    """The answers, whole."""
    found = [""] * count
    for piece in pieces:
        found[piece["row"]] += piece["text"]
    return found


def sentence(action: Any) -> list[str]:
    """The class and the words of the error that an action raises."""
    try:
        action()
    except (TunerError, gradio_client.exceptions.AppError) as error:
        return [type(error).__name__, str(error)]
    return ["no error", ""]


def is_gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def answers(chat: Any, one: str, two: str) -> dict[str, Any]:
    """What is answered, and how it comes."""
    pieces = list(chat.generate(BASE, rows(one, two)))
    scores = chat.score(BASE, ASKED, "On its way.", [Voice("base"), Voice("one", one)])
    return {
        "texts": texts(pieces, 3),
        "pieces": [sum(piece["row"] == row for piece in pieces) for row in range(3)],
        "interleaved": [piece["row"] for piece in pieces].index(2) < len(pieces) // 2,
        "scores": scores,
    }


def endings(chat: Any, one: str) -> dict[str, Any]:
    """What ends an answer early, and what is said then."""
    import spaces

    long = [Row(Voice("one", one), ASKED, LONG), Row(Voice("base"), ASKED, GREEDY)]
    pieces = chat.generate(BASE, long, request="mine")
    next(pieces)
    working = chat.state()
    chat.cancel("mine", row=0)
    last = {piece["row"]: piece for piece in pieces}

    closed = chat.generate(BASE, long[:1])
    next(closed)
    closed.close()
    pid = spaces.calls[-1]["pid"]

    def kill() -> None:
        pieces = chat.generate(BASE, long[:1])
        next(pieces)
        os.kill(spaces.calls[-1]["pid"], signal.SIGKILL)
        list(pieces)

    def without_quota() -> None:
        spaces.left_seconds = 5
        list(chat.generate(BASE, long))

    found = {
        "states": [working, chat.state()],
        "cancelled": [last[row]["reason"] for row in (0, 1)],
        "closed": is_gone(pid),
        "killed": sentence(kill),
        "quota": sentence(without_quota),
    }
    spaces.left_seconds = 3600
    unfit = [Row(Voice("nobody", "/nowhere"), ASKED, GREEDY)]
    return found | {"unfit": sentence(lambda: list(chat.generate(BASE, unfit)))}


def endpoints(services: Services) -> dict[str, Any]:
    """The API and the Start button, as somebody whom ZeroGPU knows uses them."""
    import spaces

    with gr.Blocks() as page:
        form = build_fine_tune(services)
        add_api(services)
    page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, show_error=True)
    client = gradio_client.Client(page.local_url, headers={"x-ip-token": "a.b.c"}, verbose=False)
    answered = client.predict("bot", "Where is my order?", 24, 0.0, api_name="/chat_ab")
    visitor = spaces.calls[-1]["visitor"]
    start = sentence(lambda: client.predict(RECIPE, None, api_name="/start_run"))
    run, said = FormEvents(form, services).start(DraftBox(), RECIPE, "", asked())
    resume = sentence(lambda: client.predict("bot", api_name="/resume_run"))
    page.close()
    told = {"start": start, "resume": resume, "button": [run, said]}
    return told | {"api": answered, "visitor": visitor, "runs": services.store.ids()}


def main(runs: str, one: str, two: str) -> None:
    """Ask everything once."""
    before = sorted({"torch", "spaces"} & set(sys.modules))
    services = Services.of(RunStore(Path(runs)))
    import spaces

    found = {"before": before, "decorated": spaces.decorated}
    found |= answers(services.chat, one, two) | endings(services.chat, one)
    found |= endpoints(services)
    found["calls"] = spaces.calls
    services.chat.close()
    found["after_close"] = sentence(lambda: list(services.chat.generate(BASE, rows(one, two))))
    print(json.dumps(found))
    services.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
