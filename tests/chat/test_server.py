"""The process that answers, without a process: whose turn it is, and what becomes of errors."""

import json
from types import SimpleNamespace

import pytest

from tuner.chat.server import Server
from tuner.chat.voices import Piece
from tuner.chat.waiting import MAX_WAITING
from tuner.errors import ModelError


class Engine:
    """Answers "Hi" with "Hi!"; some questions go wrong."""

    context_length = 40
    renderer = SimpleNamespace(prompt_ids=lambda messages: "".join(m["content"] for m in messages))

    def __init__(self, base, passes):
        self.base, self.passes = base, passes

    def attach(self, folder):
        if folder == "unfit":
            raise ModelError("unfit does not fit.")

    def score(self, messages, answer, voices):
        raise MemoryError

    def generate(self, rows, cancelled):
        questions = [row.messages[-1]["content"] for row in rows]
        self.passes.append((self.base.model, questions))
        for index, question in enumerate(questions):
            if question == "fails at once":
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")
            yield Piece(index, question)
        for index, question in enumerate(questions):
            if question == "fails later":
                raise ValueError("a bug")
            yield Piece(index, "!", done=True, reason="stop token")


class Asking:
    """A server, what it wrote, and which passes its engines made."""

    def __init__(self, load=None):
        self.replies, self.passes, self.loads = [], [], []
        self.server = Server(load or self.load, self.replies.append, idle_seconds=0)

    def load(self, base):
        self.loads.append(base.model)
        return Engine(base, self.passes)

    def send(self, name, *questions, base="one", **more):
        rows = [
            {
                "voice": {"name": "v", "adapter": more.get("adapter"), "model": None},
                "messages": [*more.get("before", ()), {"role": "user", "content": question}],
                "sampling": {"max_new_tokens": 10},
            }
            for question in questions
        ]
        self.request(id=name, do="generate", base=self.base(base), rows=rows)

    def base(self, model):
        return {"model": model, "revision": None, "quantization": "none", "dtype": "auto"}

    def request(self, **request):
        self.server.receive(json.dumps(request).encode())

    def of(self, name):
        return [reply for reply in self.replies if reply.get("id") == name]

    def text(self, name, row=0):
        pieces = [reply["piece"] for reply in self.of(name) if "piece" in reply]
        return "".join(piece["text"] for piece in pieces if piece["row"] == row)

    def error(self, name):
        (error,) = [reply for reply in self.of(name) if "error" in reply]
        return error["kind"], " ".join(error["error"])


@pytest.fixture
def asking(capsys):
    return Asking()


def test_requests_for_one_base_share_a_pass_and_each_gets_its_own_rows(asking):
    asking.send("a", "one", "two")
    asking.send("b", "three")
    asking.server.run()

    assert asking.passes == [("one", ["one", "two", "three"])]
    assert (asking.text("a", 0), asking.text("a", 1)) == ("one!", "two!")
    assert asking.text("b", 0) == "three!"
    assert [asking.of(name)[-1] for name in "ab"] == [{"id": n, "end": True} for n in "ab"]


def test_a_base_is_loaded_once_and_another_request_for_another_waits_its_turn(asking):
    for number, base in enumerate(("one", "two", "one", "two")):
        asking.send(str(number), f"q{number}", base=base)
    asking.server.run()

    assert asking.loads == ["one", "two"]
    assert asking.passes == [("one", ["q0", "q2"]), ("two", ["q1", "q3"])]
    states = [reply["state"] for reply in asking.replies if "state" in reply]
    assert states == ["empty", "loading", "ready"] * 2


def test_nobody_waits_for_ever_behind_a_popular_base(asking):
    for number in range(100):
        asking.send(f"popular {number}", "q")
        if number == 40:
            asking.send("rare", "mine", base="two")
    asking.server.run()

    order = [base for base, _ in asking.passes]
    assert order.index("two") <= 2  # behind at most those that were there before it
    assert all(len(questions) <= 32 for _, questions in asking.passes)
    assert all(asking.text(f"popular {number}") == "q!" for number in range(100))


def test_a_request_that_does_not_fit_its_adapter_spoils_no_other(asking):
    asking.send("good", "Hi")
    asking.send("bad", "Hi", adapter="unfit")
    asking.server.run()

    assert asking.text("good") == "Hi!"
    assert asking.error("bad") == ("ModelError", "unfit does not fit.")


def test_what_fails_in_a_shared_pass_is_tried_alone(asking):
    asking.send("bad", "fails at once")
    asking.send("good", "Hi")
    asking.server.run()

    assert asking.text("good") == "Hi!"
    kind, sentence = asking.error("bad")
    assert kind == "ChatError" and sentence.startswith("Memory ran out.")
    assert asking.passes[1:] == [("one", ["fails at once"]), ("one", ["Hi"])]


def test_an_answer_that_was_begun_is_not_begun_again(asking):
    asking.send("a", "fails later")
    asking.send("b", "Hi")
    asking.server.run()

    assert asking.text("b") == "Hi"
    assert "ValueError: a bug" in asking.error("a")[1]
    assert "ValueError: a bug" in asking.error("b")[1]
    assert len(asking.passes) == 1


def test_after_an_unforeseen_error_the_base_is_loaded_anew_and_the_process_goes_on(asking, capsys):
    asking.send("a", "fails later")
    asking.server.run()
    asking.send("b", "Hi")
    asking.server.run()

    assert asking.text("b") == "Hi!"
    assert asking.loads == ["one", "one"]
    assert "Traceback" in capsys.readouterr().err


def test_a_base_that_cannot_be_loaded_is_tried_once_for_all_who_asked():
    tried = []

    def load(base):
        tried.append(base)
        raise ModelError("It is gated.")

    asking = Asking(load)
    asking.send("a", "Hi")
    asking.send("b", "Hi")
    asking.server.run()

    assert asking.error("a") == asking.error("b") == ("ModelError", "It is gated.")
    assert len(tried) == 1
    assert asking.replies[-1] == {"state": "empty", "base": None}


def test_the_oldest_turns_are_left_out_and_the_row_says_so(asking):
    before = [
        {"role": role, "content": text}
        for role, text in (("system", "S" * 5), ("user", "a" * 20), ("assistant", "b" * 5))
    ]
    asking.send("a", "now", before=before)
    asking.server.run()

    notes = [reply["piece"]["note"] for reply in asking.of("a") if "piece" in reply]
    assert notes[0].startswith("The oldest turn was left out")
    assert asking.text("a") == "now!"


def test_a_question_that_is_too_long_is_refused_with_its_figures(asking):
    asking.send("a", "q" * 31)
    asking.server.run()
    assert "31 tokens" in asking.error("a")[1] and "leaves 30" in asking.error("a")[1]


def test_scores_that_do_not_fit_in_memory_are_a_sentence(asking):
    voices = [{"name": "base", "adapter": None, "model": None}]
    asking.request(
        id="s", do="score", base=asking.base("one"), messages=[], answer="a", voices=voices
    )
    asking.server.run()
    assert asking.error("s")[1].startswith("Memory ran out.")


def test_a_waiting_request_that_is_cancelled_loads_nothing(asking):
    asking.send("a", "one", "two")
    asking.request(id="a", do="cancel", row=None)
    asking.request(id="unknown", do="cancel", row=None)
    asking.server.run()

    assert asking.loads == []
    assert [reply["piece"]["reason"] for reply in asking.of("a")[:2]] == ["cancelled"] * 2
    assert asking.of("a")[-1] == {"id": "a", "end": True}


def test_too_many_rows_and_too_many_who_wait_are_refused(asking):
    asking.send("large", *["q"] * 33)
    assert "33 answers at once" in asking.error("large")[1]
    for number in range(MAX_WAITING + 1):
        asking.send(str(number), "q")
    assert "wait already" in asking.error(str(MAX_WAITING))[1]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"id": "x", "do": "generate"}\n'])
def test_what_is_no_request_is_answered_and_passed_over(asking, line):
    asking.server.receive(line)
    asking.send("good", "Hi")
    asking.server.run()

    assert "This is no request" in asking.replies[0]["error"][0]
    assert asking.text("good") == "Hi!"
