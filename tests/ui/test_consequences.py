"""What follows from a draft: in which order, in which step, and what is not asked for twice."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.ui.asking import http
from tuner.base_models.lookup import STARTER
from tuner.runs.store import RunStore
from tuner.service.estimating import RowSizes
from tuner.service.previewing import no_look
from tuner.service.worker import Worker
from tuner.ui.base_model_view import Lookup
from tuner.ui.consequences import ROWS_SHOWN, Consequences, Seen, consequences
from tuner.ui.draft import METHODS, NO_DATA, read_draft, write_draft
from tuner.ui.method_view import figures_of_methods
from tuner.ui.services import Services

ROWS = [{"question": f"What is {n} plus {n}?", "answer": f"It is {n + n}."} for n in range(24)]


class CountingWorker(Worker):
    """A real one that knows how many looks were asked of it."""

    looks = 0

    def follow(self, *args: Any) -> Any:
        self.looks += 1
        return super().follow(*args)


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    services = Services.of(RunStore(tmp_path_factory.mktemp("page") / "runs"))
    services.worker = CountingWorker()
    yield services
    services.worker.close()


@pytest.fixture
def data(tmp_path) -> Path:
    return write(tmp_path / "sums.jsonl", ROWS)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def text_of(source: Path | str, dataset: dict[str, Any] | None = None, **settings: Any) -> str:
    data = {"source": str(source), **(dataset or {})}
    return write_draft({"base_model": STARTER, "max_length": 128, **settings, "dataset": data})


def steps(services: Services, text: str, seen: Seen | None = None) -> list[Consequences]:
    return list(consequences(services.visit(http()), text, seen))


def last(services: Services, text: str, seen: Seen | None = None) -> Consequences:
    return steps(services, text, seen)[-1]


def test_what_is_known_at_once_comes_first_then_the_model_the_data_and_the_figures(services, data):
    found = steps(services, text_of(data))
    known = [
        (now.lookup is not None, now.look is not None, now.figures is not None) for now in found
    ]
    assert known[0] == (False, False, False)
    assert known[1] == (True, False, False)
    assert known[-2] == (True, True, False)
    assert known[-1] == (True, False, True)
    assert known == sorted(known, key=lambda step: step[0] + step[2])
    assert [now.done for now in found] == [False] * (len(found) - 1) + [True]


def test_while_the_data_is_read_the_page_says_so_and_shows_no_older_data(services, data):
    old = Seen("another", RowSizes(5, 9.0), 1, ("An older problem.",))
    found = steps(services, text_of(data), old)
    assert [now.seen for now in found[:2]] == [old, old]
    busy = [now for now in found if now.busy]
    assert busy and all(now.busy.startswith("Reading sums.jsonl") for now in busy)
    assert all(now.seen is None for now in busy)
    assert found[-1].busy == "" and found[-1].problems() == []


def test_the_rows_done_are_told_while_a_large_file_is_read(services, tmp_path):
    rows = [{"question": f"What is {n}?", "answer": f"{n}."} for n in range(30_000)]
    found = steps(services, text_of(write(tmp_path / "many.jsonl", rows), {"max_rows": 50}))
    told = [now.busy for now in found if "rows" in now.busy]
    assert told and told[0].startswith("Reading many.jsonl: ")
    assert found[-1].done


def test_sound_data_may_start_and_is_seen_with_its_sizes(services, data):
    *_, shown, end = steps(services, text_of(data))
    assert shown.look is not None and shown.look["preview"] is not None
    preview = shown.look["preview"]
    assert len(preview["examples"]) == ROWS_SHOWN
    assert end.may_start and end.seen is not None
    assert end.seen.held_out == preview["eval_rows"]
    assert end.seen.sizes == RowSizes(
        preview["train_rows"], preview["tokens"] / preview["kept"], preview["length"]["max"]
    )


def test_the_figures_are_those_of_the_rows_that_were_seen(services, data):
    found = last(services, text_of(data))
    recipe, lookup, seen = found.draft.recipe, found.lookup, found.seen
    assert recipe and lookup and lookup.base and seen and found.figures
    expected = figures_of_methods(recipe, lookup.base, seen.sizes)
    for method in METHODS:
        ours, theirs = found.figures[method].estimate, expected[method].estimate
        assert ours and theirs  # what is free of the machine changes in between
        assert ours.trainable_parameters == theirs.trainable_parameters
        assert ours.estimated_seconds is not None


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 1e-3},
        {"quantization": "nf4"},
        {"adapter": "none"},
        {"seed": 7, "num_train_epochs": 1, "sample_prompts": ["Hi"]},
    ],
)
def test_the_same_data_is_not_read_again_for_other_training_settings(services, data, settings):
    seen = last(services, text_of(data)).seen
    looks = services.worker.looks
    found = steps(services, text_of(data, **settings), seen)
    assert services.worker.looks == looks
    assert all(now.look is None and not now.busy for now in found)
    assert all(now.seen is seen for now in found)
    assert found[-1].figures is not None and found[-1].may_start


@pytest.mark.parametrize(
    ("dataset", "settings"),
    [({}, {"max_length": 64}), ({"max_rows": 10}, {}), ({"system_prompt": "Be brief."}, {})],
)
def test_data_is_read_again_for_what_decides_its_tokens(services, data, dataset, settings):
    seen = last(services, text_of(data)).seen
    found = steps(services, text_of(data, dataset, **settings), seen)
    assert any(now.look for now in found)
    assert found[-1].seen != seen


def test_a_file_that_changed_is_read_again(services, data):
    first = last(services, text_of(data))
    write(data, ROWS[:20])
    found = steps(services, text_of(data), first.seen)
    looks = [now.look for now in found if now.look]
    assert [one["preview"]["rows"] for one in looks if one["preview"]] == [20]


def test_what_is_wrong_with_the_recipe_is_all_that_is_told(services, data):
    seen = last(services, text_of(data)).seen
    looks = services.worker.looks
    [only] = steps(services, text_of(data, learning_rate=7, max_lenght=3), seen)
    assert len(only.problems("settings")) == len(only.problems()) == 2
    assert not only.may_start and not only.done
    assert only.seen is seen  # and needs not be read again once that is corrected
    assert services.worker.looks == looks


@pytest.mark.parametrize("text", ["", "a: [", "- a", "a: &a [*a]"])
def test_a_text_that_is_no_recipe_is_one_problem(services, text):
    [only] = steps(services, text)
    assert len(only.problems()) == len(only.problems("settings")) == 1
    assert not only.may_start


def test_a_base_model_that_cannot_be_found_stops_before_the_data(services, data):
    looks = services.worker.looks
    found = steps(services, text_of(data, base_model="./no/such/model"))
    assert len(found) == 2
    assert found[-1].problems() == found[-1].problems("base_model") != []
    assert not found[-1].may_start
    assert services.worker.looks == looks


def test_without_data_there_are_figures_but_no_start(services):
    found = last(services, text_of(""))
    assert found.problems() == found.problems("data") == [NO_DATA]
    assert found.done and not found.may_start
    assert found.figures is not None
    lora = found.figures["lora"].estimate
    assert lora is not None and lora.estimated_seconds is None


def test_data_that_was_taken_away_is_seen_no_longer(services, data):
    seen = last(services, text_of(data)).seen
    assert last(services, text_of(""), seen).seen is None


def test_columns_that_are_not_recognised_are_a_problem_of_the_data(services, tmp_path):
    odd = write(tmp_path / "seed.jsonl", [{"a": "x", "b": n} for n in range(9)])
    *_, shown, end = steps(services, text_of(odd))
    assert shown.look is not None
    assert (shown.look["preview"], shown.look["columns"]) == (None, ["a", "b"])
    [problem] = end.problems()
    assert end.problems("data") == [problem]
    assert "its columns are not recognised" in problem
    assert end.done and not end.may_start and end.figures is not None


def test_a_problem_of_the_data_is_remembered_until_the_data_changes(services, tmp_path):
    odd = write(tmp_path / "odd.jsonl", [{"a": "x", "b": n} for n in range(9)])
    first = last(services, text_of(odd))
    looks = services.worker.looks
    again = last(services, text_of(odd, learning_rate=1e-3), first.seen)
    assert services.worker.looks == looks
    assert again.problems("data") == first.problems("data") != []
    write(odd, ROWS)
    assert last(services, text_of(odd), again.seen).may_start


def test_a_length_beyond_the_models_context_is_a_problem_of_the_settings(services, data):
    found = last(services, text_of(data, max_length=10**6))
    [problem] = found.problems()
    assert problem.startswith("max_length=1000000 exceeds")
    assert found.problems("settings") == [problem]
    assert found.problems("data") == []
    assert not found.may_start


def test_layers_that_the_model_does_not_have_are_told_at_the_methods(services, data):
    found = last(services, text_of(data, lora={"target_modules": ["no_such_layer"]}))
    assert found.figures is not None
    assert found.figures["lora"].estimate is None
    assert "no_such_layer" in found.figures["lora"].problem
    assert found.figures["full"].estimate is not None


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"adapter": "none", "quantization": "nf4"}, "method"),
        ({"quantization": "nf8"}, "method"),
        ({"base_model": 7}, "base_model"),
        ({"revision": 7}, "base_model"),
        ({"dataset": {"eval_fraction": 2}}, "data"),
        ({"dataset": "x"}, "data"),
        ({"lora": {"r": 0}}, "settings"),
        ({"packing": True, "objective": "dpo"}, "settings"),
        ({"micro_batch_size": 3}, "settings"),
        ({"unheard_of": 1}, "settings"),
        ({"preset": 7}, "settings"),
    ],
)
def test_every_problem_of_a_recipe_stands_in_the_step_it_belongs_to(services, settings, place):
    [only] = steps(services, write_draft(settings))
    assert only.problems() == only.problems(place) != []


@pytest.mark.parametrize(
    ("problem", "place"),
    [
        ("max_length=4096 exceeds the context.", "settings"),
        ("objective=dpo learns from pairs.", "settings"),
        ("base_model=x is not a folder.", "base_model"),
        ("dataset.source=x cannot be found.", "data"),
        ("columns.prompt=x is not a column.", "data"),
        ("seed.csv holds no rows.", "data"),
        ("adapter.zip: its columns are not recognised.", "data"),
        ("None of the 9 rows would train at max_length=8.", "data"),
    ],
)
def test_every_problem_of_a_look_stands_in_the_step_it_belongs_to(problem, place):
    draft = read_draft(text_of("x.csv"))
    found = Consequences(draft, seen=Seen("", None, 0, (problem,)))
    assert found.problems() == found.problems(place) == [problem]


def test_all_problems_together_are_those_of_all_steps():
    draft = read_draft(text_of("x.csv", learning_rate=7))
    lookup, seen = Lookup(None, ["No model."]), Seen("", None, 0, ("No rows.", "No columns."))
    found = Consequences(draft, lookup, seen=seen)
    assert len(found.problems()) == 4
    assert found.problems("base_model") == ["No model."]
    assert found.problems("data") == ["No rows.", "No columns."]
    assert found.problems("method") == []


def test_a_helper_that_dies_is_a_problem_of_the_data_and_the_next_look_tries_again(services, data):
    pid = services.worker.call(os.getpid)

    running = consequences(services.visit(http()), text_of(data, {"seed": 99}), None)
    found = [next(running), next(running), next(running)]
    os.kill(pid, signal.SIGSTOP)  # it takes the work, and dies of it
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    *_, shown, end = [*found, *running]
    assert shown.look == no_look(end.problems("data"))
    assert "ended unexpectedly" in end.problems("data")[0]
    assert end.done and not end.may_start and end.busy == ""
    assert last(services, text_of(data, {"seed": 99}), end.seen).may_start
