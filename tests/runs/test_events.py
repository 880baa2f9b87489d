"""events.jsonl under fire: torn lines, full disks, readers at work, resumes."""

import json
import math
import signal
import subprocess
import sys
import threading

import pytest

from tests.runs.children import until
from tuner.runs.events import EventWriter, current_history, read_events

WRITES_FOR_EVER = """
import sys
from tuner.runs.events import EventWriter
events = EventWriter(sys.argv[1])
while True:
    events.write("log", message="x" * 3000)
"""

WRITES_600 = """
import sys
from tuner.runs.events import EventWriter
with EventWriter(sys.argv[1]) as events:
    for number in range(600):
        events.write("sample", step=number, index=0, prompt="?", text="é" * (number % 700))
"""

# A limit on file sizes behaves as a full disk does: a write takes what fits, the next one fails.
FILLS_THE_DISK = """
import resource, signal, sys
from tuner.runs.events import EventWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
events = EventWriter(sys.argv[1])
try:
    while True:
        events.write("log", message="x" * 90)
except OSError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    events.write("log", message="room again")
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def child(source, path, **options):
    return subprocess.Popen([sys.executable, "-c", source, str(path)], **options)


def test_a_written_event_is_read_back_as_write_returned_it(path):
    with EventWriter(path) as events:
        written = events.write("metric", step=1, loss=2.5, epoch=0.1)
    assert read_events(path)[0] == [written]
    assert (written["seq"], written["kind"], written["loss"]) == (1, "metric", 2.5)


def test_there_are_no_events_before_the_first(path):
    assert read_events(path) == ([], 0)


def test_reading_goes_on_from_the_offset_of_the_last_call(path):
    with EventWriter(path) as events:
        events.write("log", message="one")
        _, offset = read_events(path)
        events.write("log", message="two")
        later, end = read_events(path, offset)
    assert [event["message"] for event in later] == ["two"]
    assert end == path.stat().st_size
    assert read_events(path, end) == ([], end)


def test_read_events_leaves_a_half_written_last_line_for_the_next_read(path):
    line = json.dumps({"seq": 1, "time": 1.0, "kind": "log", "message": "whole"}).encode() + b"\n"
    path.write_bytes(line + line[:20])
    events, offset = read_events(path)
    assert (len(events), offset) == (1, len(line))
    path.write_bytes(line + line)
    assert [event["message"] for event in read_events(path, offset)[0]] == ["whole"]


@pytest.mark.parametrize(
    "rubbish",
    [b"{half", b"\x00" * 50, b"\xff\xfe", b"[1]", b"7", b'{"seq": 1}', b"", b"NaN", b"[" * 9000],
)
def test_a_corrupt_line_in_the_middle_is_skipped(path, rubbish):
    with EventWriter(path) as events:
        events.write("log", message="one")
    path.write_bytes(path.read_bytes() + rubbish + b"\n")
    with EventWriter(path) as events:
        events.write("log", message="two")
    found, offset = read_events(path)
    assert [(event["seq"], event["message"]) for event in found] == [(1, "one"), (2, "two")]
    assert offset == path.stat().st_size


@pytest.mark.parametrize("offset", [-5, 10_000])
def test_an_offset_outside_the_file_reads_it_from_its_beginning(path, offset):
    with EventWriter(path) as events:
        events.write("log", message="one")
    assert read_events(path, offset) == read_events(path)


def test_opening_removes_a_torn_last_line_and_continues_the_numbers(path):
    with EventWriter(path) as events:
        events.write("log", message="one")
        events.write("log", message="two")
    path.write_bytes(path.read_bytes() + b'{"seq": 3, "time": 17')
    with EventWriter(path) as events:
        events.write("log", message="three")
    assert [event["seq"] for event in read_events(path)[0]] == [1, 2, 3]
    assert path.read_bytes().count(b"\n") == 3


def test_a_writer_killed_in_mid_sentence_leaves_a_file_that_the_next_one_continues(path):
    writer = child(WRITES_FOR_EVER, path)
    until(lambda: path.exists() and path.stat().st_size > 200_000)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with EventWriter(path) as events:
        events.write("log", message="next")
    numbers = [event["seq"] for event in read_events(path)[0]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_readers_of_a_file_that_is_being_written_see_every_event_once_and_in_order(path):
    seen = [[], [], []]

    def follow(mine):
        offset = 0
        while len(mine) < 600:
            events, offset = read_events(path, offset)
            mine += [event["seq"] for event in events]

    readers = [threading.Thread(target=follow, args=(mine,)) for mine in seen]
    for reader in readers:
        reader.start()
    assert child(WRITES_600, path).wait() == 0
    for reader in readers:
        reader.join(timeout=15)
    assert seen == [list(range(1, 601))] * 3


def test_threads_share_a_writer_without_tearing_or_repeating_numbers(path):
    with EventWriter(path) as events:

        def write():
            for _ in range(50):
                events.write("log", message="x" * 500)

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [event["seq"] for event in read_events(path)[0]] == list(range(1, 201))


def test_a_full_disk_fails_the_write_and_leaves_a_sound_file(path):
    assert child(FILLS_THE_DISK, path).wait() == 0
    events, offset = read_events(path)
    assert events[-1]["message"] == "room again"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert path.read_bytes().count(b"\n") == len(events) and offset == path.stat().st_size


def test_numbers_that_are_none_are_null_and_the_line_is_strict_json(path):
    with EventWriter(path) as events:
        events.write("metric", step=1, loss=math.nan, grad_norm=-math.inf, epoch=0.5)

    def refuse(constant):
        raise AssertionError(constant)

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert (line["loss"], line["grad_norm"], line["epoch"]) == (None, None, 0.5)


def test_a_scalar_of_numpy_is_written_as_its_number(path):
    numpy = pytest.importorskip("numpy")
    with EventWriter(path) as events:
        event = events.write("metric", step=numpy.int64(3), loss=numpy.float32("nan"))
    assert (event["step"], event["loss"]) == (3, None)


def test_text_with_newlines_and_half_characters_stays_one_line(path):
    with EventWriter(path) as events:
        events.write("sample", step=1, index=0, prompt="a\nb\u2028c", text="half \udc80 é")
    (event,) = read_events(path)[0]
    assert (event["prompt"], event["text"]) == ("a\nb\u2028c", "half ? é")


def test_a_token_in_a_message_never_reaches_the_file(path):
    token = "hf_" + "Ab1" * 11 + "x"
    with EventWriter(path) as events:
        events.write("warning", message=f"401 with {token}", nested={"list": [token]})
    assert token not in path.read_text()


def metric(events, *steps):
    for step in steps:
        events.write("metric", step=step, loss=1.0)


def test_a_resume_supersedes_what_came_after_its_checkpoint(path):
    with EventWriter(path) as events:
        metric(events, 1, 2)
        events.write("eval", step=2, eval_loss=1.0)
        events.write("checkpoint", step=2, path="checkpoints/step-2")
        metric(events, 3, 4)
        events.write("eval", step=4, eval_loss=9.0)
        events.write("sample", step=4, index=0, prompt="", text="old")
        events.write("warning", message="stays")
    with EventWriter(path) as events:
        events.resume(2)
        metric(events, 3, 4, 5)
    history = current_history(read_events(path)[0])
    assert [event["step"] for event in history if event["kind"] == "metric"] == [1, 2, 3, 4, 5]
    assert [event["step"] for event in history if event["kind"] == "eval"] == [2]
    assert [event["kind"] for event in history].count("sample") == 0
    assert {"warning", "checkpoint"} <= {event["kind"] for event in history}
    assert [event["seq"] for event in read_events(path)[0]] == list(range(1, 14))


def test_a_second_resume_further_back_supersedes_the_first(path):
    with EventWriter(path) as events:
        metric(events, 1, 2, 3, 4)
        events.resume(3)
        metric(events, 4, 5)
        events.resume(1)
        metric(events, 2)
    history = current_history(read_events(path)[0])
    assert [event["step"] for event in history if event["kind"] == "metric"] == [1, 2]
