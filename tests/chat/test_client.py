"""What page and shell hold: real processes, real pipes, an engine without a model."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import psutil
import pytest

from tests.chat.engines import ECHO, answers_as
from tests.runs.children import until
from tuner.chat.client import ChatClient
from tuner.chat.voices import Base, Row, Sampling, Voice
from tuner.errors import ChatError, ModelError

REPOSITORY = Path(__file__).parents[2]
BASE, OTHER = Base("one", None, "none"), Base("other", None, "none")
SLOW = "0.02 " + "word " * 500

# A page that asks, and lives until it is killed.
PAGE = """
import sys
from pathlib import Path
import tuner.chat.client as client
from tuner.chat.voices import Base, Row, Sampling, Voice

client.command = lambda idle: [sys.executable, "-c", sys.argv[1]]
chat = client.ChatClient(Path(sys.argv[2]))
row = Row(Voice("base"), ({"role": "user", "content": sys.argv[3]},), Sampling())
for piece in chat.generate(Base("one", None, "none"), [row]):
    print(chat._process._popen.pid, flush=True)
"""


@pytest.fixture
def client(tmp_path, monkeypatch):
    answers_as(monkeypatch)
    with ChatClient(tmp_path / "chat.log", idle_seconds=30) as client:
        yield client


def row(text, **voice):
    return Row(Voice("base", **voice), ({"role": "user", "content": text},), Sampling())


def ask(client, *texts, base=BASE):
    """The answers to some questions of one request."""
    answers = [""] * len(texts)
    for piece in client.generate(base, [row(text) for text in texts]):
        answers[piece["row"]] += piece["text"]
    return [answer.strip() for answer in answers]


def pid_of(client):
    return client._process._popen.pid


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_each_row_streams_its_own_answer_and_says_how_it_ended(client):
    pieces = list(client.generate(BASE, [row("0.05 two three"), row("four")]))

    assert len(pieces) >= 3
    first = [piece for piece in pieces if piece["row"] == 0]
    assert "".join(piece["text"] for piece in first) == "0.05 two three "
    assert first[-1]["done"] and first[-1]["reason"] == "stop token"
    assert first[-1]["tokens"] == 3


def test_the_process_starts_with_the_first_request_and_stays_for_the_next(client):
    assert (client.state(), client.is_loaded()) == ("off", False)
    ask(client, "Hello")
    pid = pid_of(client)
    assert (client.state(), client.loaded()) == ("ready", BASE)

    ask(client, "again", base=OTHER)
    assert pid_of(client) == pid
    assert client.loaded() == OTHER


def test_load_has_a_base_in_memory_before_anybody_asks(client):
    client.load(BASE)
    assert client.loaded() == BASE


def test_stray_prints_of_the_engine_go_to_its_log_not_into_answers(client):
    assert ask(client, "Hello") == ["Hello"]
    log = client.log.read_text()
    assert "a stray print" in log and "a native print" in log


def test_twenty_threads_at_once_get_their_own_texts(client):
    def one(number):
        text = " ".join(["0.002", *[str(number)] * 20])
        return ask(client, text, f"{text} again") == [text, f"{text} again"]

    with ThreadPoolExecutor(20) as threads:
        assert all(threads.map(one, range(20)))
    batches = re.findall(r"batch of (\d+)", client.log.read_text())
    assert max(map(int, batches)) > 2  # rows of several requests were answered together


def test_closing_the_iterator_cancels_what_is_not_answered(client):
    pieces = client.generate(BASE, [row(SLOW)])
    next(pieces)
    pieces.close()

    began = time.monotonic()
    assert ask(client, "next") == ["next"]
    assert time.monotonic() - began < 3  # all of it would take ten seconds


def test_cancel_ends_one_row_and_leaves_the_others(client):
    pieces = client.generate(BASE, [row(SLOW), row("0.02 " + "a " * 30)], request="mine")
    next(pieces)
    client.cancel("mine", row=0)
    last = {piece["row"]: piece for piece in pieces}

    assert last[0]["reason"] == "cancelled" and last[0]["tokens"] < 31
    assert last[1]["reason"] == "stop token" and last[1]["tokens"] == 31


def test_a_request_that_waits_is_cancelled_at_once(client):
    slow = client.generate(BASE, [row(SLOW)])
    next(slow)
    told = []

    def wait():
        told.extend(client.generate(BASE, [row("waits")], request="waiting"))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    client.cancel("waiting")
    thread.join(3)
    assert [piece["reason"] for piece in told] == ["cancelled"]
    slow.close()


def test_an_engine_killed_in_mid_answer_is_a_sentence_and_the_next_message_works(client):
    pieces = client.generate(BASE, [row(SLOW)])
    next(pieces)
    os.kill(pid_of(client), signal.SIGKILL)

    with pytest.raises(ChatError, match=r"ended unexpectedly .*Ask again: it starts anew"):
        list(pieces)
    assert ask(client, "Still there?") == ["Still there?"]


def test_an_engine_that_dies_by_itself_says_where_its_last_words_are(client):
    with pytest.raises(ChatError, match=r"exit code 9; its last words are in chat\.log"):
        ask(client, "die")
    assert ask(client, "again") == ["again"]


def test_an_engine_that_cannot_start_is_a_sentence(tmp_path, monkeypatch):
    answers_as(monkeypatch, "raise SystemExit(3)")
    with ChatClient(tmp_path / "chat.log") as client, pytest.raises(ChatError, match="exit code 3"):
        ask(client, "Hello")


def test_errors_keep_their_class_and_every_sentence(client):
    with pytest.raises(ModelError, match=r"There is no model missing\."):
        ask(client, "Hello", base=Base("missing", None, "none"))
    with pytest.raises(ModelError, match=r"Nothing can be scored\."):
        client.score(BASE, [], "answer", [Voice("base")])


def test_a_reader_who_does_not_read_holds_nobody_up_and_keeps_one_piece_a_row(client):
    slow = client.generate(BASE, [row("0.001 " + "word " * 300)])
    next(slow)
    assert ask(client, "quick") == ["quick"]

    rest = list(slow)
    assert len(rest) == 1
    assert rest[0]["text"].split() == ["word"] * 300


def test_unload_gives_the_memory_back_and_tells_those_who_wait(client):
    pieces = client.generate(BASE, [row(SLOW)])
    next(pieces)
    pid = pid_of(client)
    client.unload()

    assert is_gone(pid) and not client.is_loaded()
    with pytest.raises(ChatError, match="unloaded before the answer was complete"):
        list(pieces)
    assert ask(client, "anew") == ["anew"]


def test_idle_ends_the_process_and_a_request_that_crosses_its_end_is_asked_again(
    tmp_path, monkeypatch
):
    answers_as(monkeypatch)
    with ChatClient(tmp_path / "chat.log", idle_seconds=0.2) as client:
        for pause in (0.15, 0.19, 0.2, 0.21, 0.25):
            assert ask(client, "Hello") == ["Hello"]
            time.sleep(pause)
        until(lambda: client.state() == "off")


def test_a_closed_client_ends_its_process_and_starts_no_other(client):
    ask(client, "Hello")
    pid = pid_of(client)
    client.close()

    assert is_gone(pid)
    with pytest.raises(ChatError, match="closed"):
        ask(client, "again")


@pytest.mark.parametrize("question", ["Hello", SLOW], ids=["at rest", "in mid-answer"])
def test_a_page_that_is_killed_leaves_no_engine_behind(tmp_path, question):
    page = subprocess.Popen(
        [sys.executable, "-c", PAGE + "\ninput()", ECHO, str(tmp_path / "log"), question],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    engine = int(page.stdout.readline())
    assert not is_gone(engine)
    page.kill()
    page.communicate()
    until(lambda: is_gone(engine))


def test_a_request_that_was_never_read_is_never_asked(client):
    client.generate(BASE, [row("Hello")]).close()
    assert client.state() == "off"


def test_a_name_in_use_is_refused(client):
    first = client.generate(BASE, [row(SLOW)], request="same")
    next(first)
    with pytest.raises(ChatError, match="same is being answered already"):
        list(islice(client.generate(BASE, [row("b")], request="same"), 1))
    first.close()
