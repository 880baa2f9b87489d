"""A run as its viewers get it: everything once, what is new after that, and nothing read twice."""

import json
import os
import random
import threading
import time

import pytest

from tests.ui.telling import lives, metric, told
from tuner.errors import RunError
from tuner.runs.events import EventWriter, current_history, read_events
from tuner.ui import live, story
from tuner.ui.live import LiveRun, LiveRuns
from tuner.ui.story import LOG_LINES, POINTS, Story


@pytest.fixture
def viewed(run):
    lives(run)
    return LiveRun(run)


class Viewer:
    """Follows a run as the page does, and keeps what it was told."""

    def __init__(self, viewed):
        self.viewed, self.after, self.version, self.resets = viewed, None, None, 0
        self.loss, self.log, self.samples = [], [], []

    def poll(self):
        reply = told(self.viewed.reply(self.after, self.version))
        if reply is None:
            return None
        if reply["reset"]:
            self.resets += 1
            self.loss, self.log, self.samples = [], [], []
        self.loss += reply["curves"]["loss"]
        self.log += [line["text"] for line in reply["log"]]
        self.samples += reply["samples"]
        self.after, self.version = reply["next"], reply["version"]
        return reply


def test_the_first_reply_tells_the_whole_story(viewed, events):
    events.write("log", message="Loading starter")
    events.write("eval", step=0, eval_loss=4.0)
    events.write("sample", step=0, index=0, prompt="Hello?", text="…")
    for step in (1, 2):
        metric(events, step, max_steps=60)
    reply = told(viewed.reply(None, None))
    assert (reply["reset"], reply["run"], reply["name"]) == (True, viewed.run.id, "support-bot")
    assert reply["curves"]["loss"] == [[1, 1.5], [2, 1.0]]
    assert reply["curves"]["eval_loss"] == [[0, 4.0]]
    assert reply["now"]["step"] == 2 and reply["now"]["max_steps"] == 60
    assert reply["samples"] == [{"step": 0, "index": 0, "prompt": "Hello?", "text": "…"}]
    assert [(line["level"], line["text"]) for line in reply["log"]] == [("info", "Loading starter")]
    assert reply["status"]["state"] == "running" and reply["status"]["step"] == 2
    assert ["Base model", "the built-in practice model"] in reply["facts"]
    assert reply["next"] == viewed.run.events_path.stat().st_size


def test_a_run_without_events_has_a_story_too(viewed):
    reply = told(viewed.reply(None, None))
    assert reply["curves"]["loss"] == [] and reply["now"] is None and reply["next"] == 0
    assert viewed.reply(0, reply["version"]) is None


def test_who_knows_everything_is_told_nothing(viewed, events):
    metric(events, 1)
    viewer = Viewer(viewed)
    viewer.poll()
    assert viewer.poll() is None


def test_later_replies_hold_what_is_new_only(viewed, events):
    metric(events, 1)
    viewer = Viewer(viewed)
    viewer.poll()
    metric(events, 2)
    events.write("warning", message="Careful")
    reply = viewer.poll()
    assert not reply["reset"] and "facts" not in reply
    assert reply["curves"]["loss"] == [[2, 1.0]]
    assert reply["log"] == [
        {"time": reply["log"][0]["time"], "level": "warning", "text": "Careful"}
    ]


def test_viewers_who_poll_at_different_times_all_know_the_same_in_the_end(viewed, events):
    chance, viewers = random.Random(1), [Viewer(viewed) for _ in range(6)]
    for step in range(1, 120):
        metric(events, step)
        if step % 10 == 0:
            events.write("sample", step=step, index=0, prompt="?", text=str(step))
        for viewer in viewers:
            if chance.random() < 0.3:
                viewer.poll()
    for viewer in viewers:
        viewer.poll()
        assert [step for step, _ in viewer.loss] == list(range(1, 120))
        assert [sample["step"] for sample in viewer.samples] == list(range(10, 120, 10))
        assert viewer.resets == 1


def test_an_unchanged_file_is_not_opened_again(viewed, events, monkeypatch):
    metric(events, 1)
    viewed.reply(None, None)
    opened = []
    monkeypatch.setattr(Story, "_read_on", lambda *_: opened.append(1))
    for _ in range(10):
        viewed.reply(None, None)
    assert opened == []


def test_fifty_viewers_who_know_the_same_share_one_reply(viewed, events, monkeypatch):
    metric(events, 1)
    first = told(viewed.reply(None, None))
    metric(events, 2)
    built = []
    tell = Story.tell
    monkeypatch.setattr(Story, "tell", lambda *given: built.append(1) or tell(*given))
    replies = [viewed.reply(first["next"], first["version"]) for _ in range(50)]
    assert len(built) == 1 and len(set(map(id, replies))) == 1


def test_the_status_is_looked_at_once_in_half_a_second(viewed, monkeypatch):
    looks = []
    look = LiveRun._look
    monkeypatch.setattr(LiveRun, "_look", lambda self: looks.append(1) or look(self))
    for _ in range(50):
        viewed.reply(None, None)
    assert len(looks) == 1
    monkeypatch.setattr(live, "STATUS_SECONDS", 0)
    viewed.reply(None, None)
    assert len(looks) == 2


def test_a_change_of_the_status_alone_is_told(viewed, monkeypatch):
    monkeypatch.setattr(live, "STATUS_SECONDS", 0)
    viewer = Viewer(viewed)
    viewer.poll()
    viewed.run.update_status(stop_asked=time.time())
    assert viewer.poll()["status"]["stop_asked"] is True
    assert viewer.poll() is None


def test_the_facts_are_told_again_when_they_change(viewed, monkeypatch):
    monkeypatch.setattr(live, "STATUS_SECONDS", 0)
    viewer = Viewer(viewed)
    viewer.poll()
    viewed.run.data_dir.mkdir()
    (viewed.run.data_dir / "report.json").write_text('{"train_rows": 760, "eval_rows": 40}')
    assert ["Rows", "760 to train on, 40 held out"] in viewer.poll()["facts"]


def test_a_torn_last_line_is_told_once_it_is_whole(viewed, events):
    metric(events, 1)
    line = json.dumps({"seq": 2, "time": 1.0, "kind": "metric", "step": 2, "loss": 7.0}) + "\n"
    viewer = Viewer(viewed)
    with open(viewed.run.events_path, "a") as file:
        file.write(line[:30])
        file.flush()
        viewer.poll()
        assert viewer.poll() is None
        file.write(line[30:])
    viewer.poll()
    assert (viewer.loss, viewer.resets) == ([[1, 1.5], [2, 7.0]], 1)


def test_a_torn_line_that_a_resumed_process_replaces_by_one_of_equal_length_is_told(viewed):
    path = viewed.run.events_path
    line = b'{"seq":1,"time":1.0,"kind":"metric","step":1,"loss":7.0}\n'
    path.write_bytes(line + b"x" * len(line))
    viewer = Viewer(viewed)
    viewer.poll()
    path.write_bytes(line + line.replace(b'"step":1', b'"step":2'))
    os.utime(path, (1, 1))  # a clock may be coarse; the file's time still changes
    viewer.poll()
    assert viewer.loss == [[1, 7.0], [2, 7.0]]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"{half",
        b"\x00" * 50,
        b"\xff\xfe",
        b"[1]",
        b'{"seq": 1}',
        b"[" * 9000,
        b'{"seq": 1, "time": 1, "kind": "metric", "step": "x", "loss": 1}',
        b'{"seq": 1, "time": 1, "kind": "metric", "step": 99999999999999999999, "loss": 1}',
        b'{"seq": 1, "time": 1, "kind": "metric", "step": null}',
        b'{"seq": 1, "time": 1, "kind": "log", "message": {"a": 1}}',
        b'{"seq": 1, "time": 1, "kind": "sample"}',
        b'{"seq": 1, "time": 1, "kind": "from the future", "step": 3}',
    ],
)
def test_a_line_that_is_no_event_is_passed_over(viewed, rubbish, events):
    metric(events, 1)
    with open(viewed.run.events_path, "ab") as file:
        file.write(rubbish + b"\n")
    metric(events, 2)
    assert told(viewed.reply(None, None))["curves"]["loss"] == [[1, 1.5], [2, 1.0]]


def test_a_loss_that_is_no_number_has_no_point(viewed, events):
    metric(events, 1)
    metric(events, 2, loss=float("nan"))
    reply = told(viewed.reply(None, None))
    assert reply["curves"]["loss"] == [[1, 1.5]]
    assert reply["now"]["loss"] is None and reply["curves"]["grad_norm"][-1] == [2, 0.5]


def test_a_resume_rewrites_the_story_for_those_who_saw_what_it_did_over_again(viewed, events):
    for step in range(1, 8):
        metric(events, step)
    viewer = Viewer(viewed)
    viewer.poll()
    events.resume(4)
    reply = viewer.poll()
    assert reply["reset"] and reply["now"]["step"] == 4 and reply["now"]["loss"] == 3 / 5
    metric(events, 5, loss=9.0)
    assert not viewer.poll()["reset"]
    assert viewer.loss[-2:] == [[4, 3 / 5], [5, 9.0]]
    assert "Resumed at step 4." in viewer.log


def test_the_story_is_the_current_history_of_any_events(run):
    chance = random.Random(11)
    with EventWriter(run.events_path) as events:
        step = 0
        for _ in range(3000):
            step = max(0, step + chance.choice([1, 1, 1, 0, -1]))
            kind = chance.choice(["metric", "metric", "eval", "sample", "checkpoint", "resume"])
            if kind == "resume" and chance.random() < 0.1:
                step = chance.randrange(step + 1)
                events.resume(step)
            elif kind == "sample":
                events.write("sample", step=step, index=0, prompt="?", text="!")
            elif kind == "checkpoint":
                events.write("checkpoint", step=step, path=f"checkpoints/step-{step}")
            elif kind != "resume":
                events.write(kind, step=step, loss=chance.random(), eval_loss=chance.random())
    history = current_history(read_events(run.events_path)[0])
    read = Story(run.events_path)
    read.catch_up()
    metrics = [(e["step"], e["loss"]) for e in history if e["kind"] == "metric"]
    evals = [(e["step"], e["eval_loss"]) for e in history if e["kind"] == "eval"]
    samples = [e["step"] for e in history if e["kind"] == "sample" and e["step"]]
    assert read.metrics.points("loss") == metrics
    assert read.evals.points("eval_loss") == evals
    assert [s["step"] for s in read.tell()["samples"] if s["step"]] == samples[-story.SAMPLES :]


def test_a_file_that_shrank_or_was_replaced_begins_a_new_story(viewed):
    path = viewed.run.events_path
    line = '{"seq": 1, "time": 1.0, "kind": "metric", "step": %d, "loss": 1.0}\n'
    path.write_text("".join(line % step for step in range(1, 9)))
    viewer = Viewer(viewed)
    viewer.poll()
    path.write_text(line % 3)  # shorter, in place
    assert viewer.poll()["reset"] and viewer.loss == [[3, 1.0]]
    aside = path.with_name("aside")
    aside.write_text("".join(line % step for step in range(20, 40)))  # longer, another file
    os.replace(aside, path)
    assert viewer.poll()["reset"] and viewer.loss[0] == [20, 1.0]
    path.unlink()
    assert viewer.poll()["reset"] and viewer.loss == []


def test_a_longer_file_written_over_the_old_one_begins_a_new_story(viewed):
    path = viewed.run.events_path
    line = '{"seq": 1, "time": %d, "kind": "metric", "step": 1, "loss": 1.0}\n'
    path.write_text(line % 1)
    viewer = Viewer(viewed)
    viewer.poll()
    path.write_text(line % 2 + line % 3)
    assert viewer.poll()["reset"] and len(viewer.loss) == 2


def test_a_file_whose_inode_changes_is_the_same_story(viewed, events):
    metric(events, 1)
    viewer = Viewer(viewed)
    viewer.poll()
    path = viewed.run.events_path
    aside = path.with_name("aside")
    aside.write_bytes(path.read_bytes())
    os.replace(aside, path)
    assert viewer.poll() is None


def test_a_restarted_server_goes_on_where_the_viewer_is(viewed, events):
    metric(events, 1)
    viewer = Viewer(viewed)
    viewer.poll()
    metric(events, 2)
    viewer.viewed = LiveRun(viewed.run)
    assert not viewer.poll()["reset"] and len(viewer.loss) == 2


@pytest.mark.parametrize("after", [-1, 10**15])
def test_who_asks_from_a_byte_that_is_not_there_gets_the_whole_story(viewed, events, after):
    metric(events, 1)
    assert told(viewed.reply(after, None))["reset"]


def test_a_long_story_comes_in_few_points_that_keep_its_peak(viewed):
    with EventWriter(viewed.run.events_path) as events:
        for step in range(1, 6001):
            metric(events, step, loss=99.0 if step == 3210 else 1.0 + step % 7)
        first = told(viewed.reply(None, None))
        for step in range(6001, 6301):
            metric(events, step)
        second = told(viewed.reply(None, None))
    for reply, last in ((first, 6000), (second, 6300)):
        points = reply["curves"]["loss"]
        assert len(points) <= POINTS and [3210, 99.0] in points
        assert (points[0][0], points[-1][0]) == (1, last)
        assert [step for step, _ in points] == sorted({step for step, _ in points})


def test_who_was_away_for_long_gets_the_whole_story_in_few_points(viewed, events):
    metric(events, 1)
    viewer = Viewer(viewed)
    viewer.poll()
    for step in range(2, POINTS + 50):
        metric(events, step)
    assert viewer.poll()["reset"] and len(viewer.loss) <= POINTS


def test_the_log_ends_with_its_last_lines(viewed, events):
    for number in range(LOG_LINES + 30):
        events.write("log", message=f"line {number}")
    texts = [line["text"] for line in told(viewed.reply(None, None))["log"]]
    assert (len(texts), texts[0], texts[-1]) == (LOG_LINES, "line 30", f"line {LOG_LINES + 29}")


def test_a_failure_is_an_error_in_the_log(viewed, events):
    events.write("state", state="failed", reason="No memory.")
    (line,) = told(viewed.reply(None, None))["log"]
    assert (line["level"], line["text"]) == ("error", "No memory.")


def test_progress_is_told_while_a_run_prepares_and_not_after(viewed, events, monkeypatch):
    monkeypatch.setattr(live, "STATUS_SECONDS", 0)
    lives(viewed.run, state="preparing")
    done = {"what": "Downloading the base model", "done": 5, "total": 9, "unit": "bytes"}
    events.write("progress", **done)
    assert told(viewed.reply(None, None))["progress"] == done
    lives(viewed.run, state="running")
    assert told(viewed.reply(None, None))["progress"] is None


def test_a_run_whose_process_is_gone_is_interrupted_and_resumable_with_a_checkpoint(viewed):
    viewed.run.update_status(pid=2**22 + 1)
    (viewed.run.checkpoints_dir / "step-20").mkdir(parents=True)
    status = told(viewed.reply(None, None))["status"]
    assert (status["state"], status["resumable"]) == ("interrupted", True)


def test_a_place_in_the_line_is_told_of_runs_that_wait(run):
    reply = told(LiveRun(run, lambda: ["another", run.id]).reply(None, None))
    assert (reply["status"]["state"], reply["status"]["position"]) == ("queued", 2)


def test_the_line_is_asked_for_once_however_many_wait_in_it(store, recipe):
    made = [store.create(recipe, name) for name in ("a", "b", "c")]
    asked = []
    runs = LiveRuns(store, lambda: asked.append(1) or [run.id for run in made])
    replies = [told(runs.find(run.id).reply(None, None)) for run in made]
    assert [reply["status"]["position"] for reply in replies] == [1, 2, 3]
    assert len(asked) == 1


def test_a_deleted_run_is_an_error_and_not_a_story(viewed, store, monkeypatch):
    monkeypatch.setattr(live, "STATUS_SECONDS", 0)
    viewed.reply(None, None)
    viewed.run.update_status(state="stopped", pid=None)
    store.delete(viewed.run.id)
    with pytest.raises(RunError):
        viewed.reply(None, None)


def test_only_an_exact_id_finds_a_run(store, run):
    runs = LiveRuns(store)
    assert runs.find(run.id).run == run
    for other in (
        "support-bot",
        run.id[:12],
        "",
        "..",
        f"../runs/{run.id}",
        f"{run.id}/",
        run.id + "x",
    ):
        with pytest.raises(RunError):
            runs.find(other)


def test_the_runs_that_are_kept_are_those_looked_at_last(store, recipe):
    runs = LiveRuns(store, kept=2)
    made = [store.create(recipe, name) for name in ("a", "b", "c")]
    for run in (made[0], made[1], made[0], made[2]):
        runs.find(run.id)
    assert [runs.known(run.id) is not None for run in made] == [True, False, True]


def test_many_threads_and_a_writer_at_work_leave_every_viewer_with_the_same(viewed, events):
    viewers, done = [Viewer(viewed) for _ in range(8)], threading.Event()

    def follow(viewer):
        while not done.is_set():
            viewer.poll()
        viewer.poll()

    threads = [threading.Thread(target=follow, args=(viewer,)) for viewer in viewers]
    for thread in threads:
        thread.start()
    for step in range(1, 400):
        metric(events, step)
    done.set()
    for thread in threads:
        thread.join()
    assert {len(viewer.loss) for viewer in viewers} == {399}
