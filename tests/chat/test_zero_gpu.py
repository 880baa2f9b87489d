"""The playground on ZeroGPU: real forks of a real process, by a `spaces` that lends no GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chat.tuned import save_adapter
from tests.chat.zero_gpu_app import ASKED, BASE, rows, texts
from tuner.chat.client import ChatClient
from tuner.chat.gpu_seconds import LEAST, MOST, gpu_seconds
from tuner.chat.protocol import generate_request, score_request
from tuner.chat.voices import Base, Row, Sampling, Voice
from tuner.chat.zero_gpu import refusal
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore
from tuner.starter import STARTER_DIR

REPOSITORY = Path(__file__).parents[2]
NO_TRAINING = "ZeroGPU.*Duplicate the Space.*your own machine"
SMALL, LARGE = 300_000_000, 16_000_000_000  # bytes of weights: 135 M and 8 B parameters


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    place = tmp_path_factory.mktemp("adapters")
    return [
        save_adapter(STARTER_DIR, place / "one", seed=1),
        save_adapter(STARTER_DIR, place / "two", seed=2, r=4),
    ]


@pytest.fixture(scope="module")
def told(adapters, tmp_path_factory):
    """What the Space's process tells of itself."""
    store = RunStore(tmp_path_factory.mktemp("space") / "runs")
    settings = {"base_model": "starter", "quantization": "none", "dtype": "float32"}
    run = store.create(make_recipe({**settings, "dataset": {"source": "rows.csv"}}), "bot")
    shutil.copytree(adapters[0], run.adapter_dir, dirs_exist_ok=True)
    run.update_status(state="completed")
    path = os.pathsep.join([str(REPOSITORY / "tests/fake_spaces"), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.chat.zero_gpu_app", str(store.root), *adapters],
        env=os.environ | {"PYTHONPATH": path, "SPACES_ZERO_GPU": "true"},
        cwd=REPOSITORY,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_forks_answer_as_the_playgrounds_own_process_does(told, adapters, tmp_path):
    with ChatClient(tmp_path / "chat.log") as client:
        pieces = client.generate(BASE, rows(*adapters))
        scores = client.score(
            BASE, ASKED, "On its way.", [Voice("base"), Voice("one", adapters[0])]
        )
        assert told["texts"] == texts(pieces, 3)
    assert len(set(told["texts"])) == 3
    assert told["scores"]["texts"] == scores["texts"]
    for found, expected in zip(told["scores"]["logprobs"], scores["logprobs"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_voices_of_one_question_stream_side_by_side_in_one_call(told):
    assert min(told["pieces"]) > 3 and told["interleaved"]
    assert len(told["calls"]) == 8  # one a question, however many voices


def test_the_page_finds_its_function_before_it_is_launched(told):
    assert told["before"] == [] and told["decorated"] == 1


def test_cancel_ends_one_row_and_leaves_the_others(told):
    assert told["cancelled"] == ["cancelled", "stop token"]
    assert told["states"] == ["ready", "off"]


def test_closing_the_iterator_ends_the_call(told):
    assert told["closed"]


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("killed", "ChatError", "taken back before the answer was complete"),
        ("quota", "ChatError", "exceeded your free ZeroGPU quota .* sign in to Hugging Face"),
        ("unfit", "ModelError", "no adapter_config.json"),
        ("after_close", "ChatError", "playground is closed"),
        ("start", "AppError", NO_TRAINING),
        ("resume", "AppError", NO_TRAINING),
        ("button", "", NO_TRAINING),
    ],
)
def test_what_cannot_be_done_is_a_sentence(told, what, kind, words):
    found, sentence = told[what]
    assert found == kind
    assert re.search(words, sentence), sentence


def test_nothing_is_left_of_a_run_that_was_refused(told):
    assert [run.split("-", 2)[2] for run in told["runs"]] == ["bot"]


def test_a_call_is_charged_to_the_visitor_who_asked(told):
    assert told["visitor"] == "a.b.c"
    assert [answer["name"] for answer in told["api"]["answers"]] == ["base", "bot"]
    assert all(answer["text"] for answer in told["api"]["answers"])


def test_elsewhere_the_playground_has_a_process_of_its_own_and_spaces_is_not_imported():
    code = (
        "import sys; from pathlib import Path; from tuner.chat.client import chat_client;"
        "print(type(chat_client(Path('log'))).__name__, {'torch', 'spaces'} & set(sys.modules))"
    )
    path = os.pathsep.join([str(REPOSITORY / "tests/fake_spaces"), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("SPACES_ZERO_GPU", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "ChatClient set()"


def asked(rows=2, tokens=256, quantization="none", text="Where is my order?"):
    messages = ({"role": "user", "content": text},)
    row = Row(Voice("base"), messages, Sampling(tokens))
    return generate_request(Base("a/b", None, quantization), [row] * rows, "name")


def test_a_longer_answer_a_larger_model_and_more_to_read_ask_for_more_seconds():
    usual = gpu_seconds(asked(), LARGE)
    assert LEAST < usual < MOST
    assert gpu_seconds(asked(tokens=1024), LARGE) > usual
    assert gpu_seconds(asked(quantization="nf4"), LARGE) > usual
    assert gpu_seconds(asked(rows=32, text="word " * 2000), LARGE) > usual
    assert gpu_seconds(asked(), LARGE, full_models=1) > usual
    assert gpu_seconds(asked(), SMALL) < usual


@pytest.mark.parametrize(
    ("request_", "weight_bytes", "seconds"),
    [
        (asked(tokens=8), SMALL, LEAST),
        (asked(tokens=1024, quantization="int8"), 10 * LARGE, MOST),
        (
            score_request(Base("a/b", None, "none"), ASKED, "Yes.", [Voice("base")], "n"),
            SMALL,
            LEAST,
        ),
    ],
)
def test_seconds_stay_within_what_zero_gpu_gives(request_, weight_bytes, seconds):
    assert gpu_seconds(request_, weight_bytes) == seconds


class Refused(Exception):
    """As Gradio's error is read: a message and a title."""

    def __init__(self, title, message):
        super().__init__(f"{title}: {message}")
        self.title, self.message = title, message


@pytest.mark.parametrize(
    ("title", "message", "words"),
    [
        ("ZeroGPU quota exceeded", "No GPU was available after 60s. Try", "No GPU was free"),
        ("ZeroGPU queue timeout", "<a>No GPU was available</a> after 60s", "No GPU was free"),
        ("ZeroGPU quota exceeded", "Space app has reached its GPU limit. ", "limit. Everybody has"),
        ("ZeroGPU pending credits exceeded", "You have too many.", "You have too many. Everybody"),
        ("ZeroGPU illegal duration", "The requested", "needs 30 seconds of a GPU, more than"),
        ("ZeroGPU worker error", "GPU task aborted", "taken back .* 30 seconds were asked for"),
        ("ZeroGPU worker error", "OSError", "worker error: OSError. Reload"),
    ],
)
def test_each_refusal_of_zero_gpu_is_a_sentence_with_a_remedy(title, message, words):
    assert re.search(words, str(refusal(Refused(title, message), 30)))


def test_an_error_that_nobody_foresaw_does_not_tell_the_visitors_token():
    error = ConnectionError("http://device/schedule?token=secret-of-the-visitor")
    said = str(refusal(error, 30))
    assert "ConnectionError" in said and "secret" not in said
