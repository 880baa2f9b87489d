"""events.jsonl: whole lines only, numbers that go on, and nothing secret."""

import json
import multiprocessing

import pytest

from tuner.runs.events import EventWriter, current_history, read_events


def test_read_events_leaves_a_half_written_last_line_for_the_next_read(tmp_path):
    path = tmp_path / "events.jsonl"
    EventWriter(path).write("log", message="one")
    with path.open("a") as file:
        file.write('{"seq": 2, "kind": "lo')

    events, offset = read_events(path)
    with path.open("a") as file:
        file.write('g", "message": "two"}\n')
    later, _ = read_events(path, offset)

    assert [event["message"] for event in events] == ["one"]
    assert [event["message"] for event in later] == ["two"]


def test_a_new_writer_drops_a_torn_line_and_goes_on_counting(tmp_path):
    path = tmp_path / "events.jsonl"
    EventWriter(path).write("log", message="one")
    with path.open("a") as file:
        file.write('{"seq": 2, "kin')

    EventWriter(path).write("log", message="two")

    assert [(e["seq"], e["message"]) for e in read_events(path)[0]] == [(1, "one"), (2, "two")]


def test_a_damaged_line_in_the_middle_does_not_hide_the_others(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"seq": 1, "kind": "log"}\n\x00\x00garbage\n{"seq": 3, "kind": "log"}\n')

    assert [event["seq"] for event in read_events(path)[0]] == [1, 3]


def test_no_file_yet_is_no_events(tmp_path):
    assert read_events(tmp_path / "events.jsonl", 0) == ([], 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_know_become_null(tmp_path, value):
    path = tmp_path / "events.jsonl"
    EventWriter(path).write("metric", step=1, loss=value)

    assert json.loads(path.read_text())["loss"] is None


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnopqrst",
        "Bearer abcdefghij0123456789",
        "https://me:pass word@hub".replace(" ", ""),
    ],
)
def test_secrets_do_not_reach_the_file(tmp_path, secret):
    path = tmp_path / "events.jsonl"
    EventWriter(path).write("warning", message=f"failed with {secret}")

    hidden = secret.removeprefix("Bearer ").removeprefix("https://me:").removesuffix("@hub")
    assert hidden not in path.read_text()
    assert "[redacted]" in path.read_text()


def _write_many(path, count):
    writer = EventWriter(path)
    for number in range(count):
        writer.write("log", message="x" * 500 + str(number))


def test_a_reader_beside_a_writer_sees_every_event_once_and_in_order(tmp_path):
    path = tmp_path / "events.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=_write_many, args=(path, 2000))
    process.start()
    seen, offset = [], 0
    while process.is_alive() or read_events(path, offset)[0]:
        events, offset = read_events(path, offset)
        seen += [event["seq"] for event in events]
    process.join()

    assert seen == list(range(1, 2001))


def test_history_after_a_resume_leaves_out_what_was_taken_back(tmp_path):
    writer = EventWriter(tmp_path / "events.jsonl")
    for step in (1, 2, 3):
        writer.write("metric", step=step, loss=1.0)
    writer.write("warning", message="stays")
    writer.resume(2)
    writer.write("metric", step=3, loss=0.5)

    history = current_history(read_events(tmp_path / "events.jsonl")[0])

    assert [(e["step"], e["loss"]) for e in history if e["kind"] == "metric"] == [
        (1, 1.0),
        (2, 1.0),
        (3, 0.5),
    ]
    assert any(e["kind"] == "warning" for e in history)
