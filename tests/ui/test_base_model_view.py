"""Base models on the page: what is known of one, what is wrong, and how long an answer is kept."""

import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.hub_server import MODEL, Fault, serving
from tests.tiny_models import tiny_model
from tuner.base_models.lookup import STARTER, SUGGESTED, find_base_model
from tuner.device import Device
from tuner.ui import base_model_view
from tuner.ui.base_model_view import (
    SECONDS_KEPT,
    BaseModels,
    Lookup,
    base_model_html,
    is_non_commercial,
    machine_words,
    model_facts,
    suggestions,
)

CPU = Device("cpu", "a processor", 16 * 10**9, 12 * 10**9, True, 4, 1)
GPU = Device("cuda", "NVIDIA L4", 24 * 10**9, 22 * 10**9, True, 8, 1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(Path(shutil.copytree(llama, tmp_path / "served")), monkeypatch) as server:
        yield server


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set on."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(base_model_view, "time", clock)
    return clock


def test_a_model_that_is_found_is_what_the_engine_finds():
    assert BaseModels().find(STARTER, None) == Lookup(find_base_model(STARTER), [])


def test_the_practice_model_works_offline():
    html = base_model_html(BaseModels().find(STARTER, None))
    assert "2.6 M parameters" in html and "works offline" in html
    assert "download" not in html


def test_a_model_on_the_hub_tells_its_licence_access_and_download(hub):
    hub.page = {"cardData": {"license": "apache-2.0"}}
    html = base_model_html(BaseModels().find(MODEL, None))
    for words in ("licence apache-2.0", "512 tokens of context", "to download", "open to all"):
        assert words in html
    assert "tuner-warning" not in html and "tuner-problem" not in html


def test_a_gated_model_that_can_be_read_says_so(hub):
    hub.page = {"gated": "manual"}
    found = BaseModels().find(MODEL, None)
    assert "gated, and you have access" in model_facts(found.base)
    assert "licence not stated" in model_facts(found.base)


def test_a_gated_model_is_a_sentence_that_says_what_to_do(hub):
    hub.faults = {"/resolve/": Fault(403, "GatedRepo")}
    found = BaseModels().find(MODEL, None)
    assert found.base is None
    html = base_model_html(found)
    assert html.startswith(f'<p class="tuner-problem">✕ {MODEL} is gated')
    assert f"https://huggingface.co/{MODEL}, accept it" in html


def test_a_missing_model_is_a_sentence_with_the_nearest(hub):
    hub.faults = {"/api/": Fault(404, "RepoNotFound")}
    found = BaseModels().find("Qwen/Qwen3-0.6", None)
    assert found.base is None
    assert "Did you mean Qwen/Qwen3-0.6B?" in base_model_html(found)


def test_a_name_that_is_no_model_is_text_in_its_sentence():
    html = base_model_html(BaseModels().find("./<script>alert(1)</script>", None))
    assert "<script>" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "fair-noncommercial-research-license"])
def test_a_licence_that_forbids_commercial_use_is_a_warning(hub, licence):
    hub.page = {"cardData": {"license": licence}}
    html = base_model_html(BaseModels().find(MODEL, None))
    assert f'<p class="tuner-warning">△ The licence {licence} forbids commercial use.</p>' in html


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("cc-by-nc-sa-4.0", True),
        ("CC-BY-NC-4.0", True),
        ("cc-by-4.0", False),
        ("llama3.2", False),
        ("ncsa", False),
        ("", False),
        (None, False),
    ],
)
def test_a_licences_short_name_says_whether_commercial_use_is_forbidden(licence, forbids):
    assert is_non_commercial(licence) is forbids


def test_a_model_without_a_chat_template_is_a_warning(tmp_path):
    folder = tiny_model(tmp_path, chat_template=None)
    html = base_model_html(BaseModels().find(str(folder), None))
    assert "△ It has no chat template" in html


def test_a_model_without_a_limit_says_nothing_of_its_context():
    base = replace(find_base_model(STARTER), context_length=0)
    assert not any("context" in fact for fact in model_facts(base))


def test_an_answer_is_kept_for_a_while_and_then_asked_for_again(hub, clock):
    models = BaseModels()
    first = models.find(MODEL, None)
    asked = len(hub.asked)
    clock.now += SECONDS_KEPT[True] - 1
    assert models.find(MODEL, None) is first
    assert len(hub.asked) == asked
    clock.now += 2
    assert models.find(MODEL, None) == first
    assert len(hub.asked) > asked


def test_a_refusal_is_kept_shortly_since_access_may_be_granted_meanwhile(hub, clock):
    models = BaseModels()
    hub.faults = {"/resolve/": Fault(403, "GatedRepo")}
    refused = models.find(MODEL, None)
    hub.faults = {}
    clock.now += SECONDS_KEPT[False] - 1
    assert models.find(MODEL, None) is refused
    clock.now += 2
    assert models.find(MODEL, None).base is not None


def test_every_revision_has_an_answer_of_its_own(hub):
    models = BaseModels()
    models.find(MODEL, None)
    asked = len(hub.asked)
    models.find(MODEL, "v2")
    assert any("v2" in one.path for one in hub.asked[asked:])


def test_old_answers_are_not_kept_for_ever(clock):
    models = BaseModels()
    for number in range(50):
        models.find(f"./no/such/model/{number}", None)
        clock.now += SECONDS_KEPT[False]
    assert len(models._kept) <= 2


@pytest.mark.parametrize(("device", "first"), [(CPU, "builtin"), (GPU, "gpu")])
def test_the_models_for_this_machine_are_offered_first_and_all_are_offered(device, first):
    offered = suggestions(device)
    models = [model for _, model in offered]
    assert models[: len(SUGGESTED[first])] == list(SUGGESTED[first])
    assert sorted(models) == sorted(model for tier in SUGGESTED.values() for model in tier)
    assert len({shown for shown, _ in offered}) == len(offered)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (CPU, "this machine: 4 CPU cores, 16.0 GB"),
        (GPU, "this machine: NVIDIA L4, 24.0 GB"),
        (replace(GPU, count=2), "this machine: 2 × NVIDIA L4, 24.0 GB"),
    ],
)
def test_the_machine_in_words(device, words):
    assert machine_words(device) == words
