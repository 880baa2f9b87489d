"""The helper process: what comes back from it, what becomes of it, and what stays out of ours."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.runs.children import until
from tuner import errors
from tuner.errors import DatasetError, TunerError
from tuner.service.worker import Worker

REPOSITORY = Path(__file__).parents[2]
FAMILY = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TunerError)
]

# What follows is called in the helper process, which imports this module to find it.


def refuse(kind, problems):
    raise kind(problems)


def count(rows, seconds, progress):
    for row in range(1, rows + 1):
        progress(row)
        time.sleep(seconds)
    return f"{rows} rows"


def count_and_refuse(progress):
    progress(1)
    raise DatasetError(["One.", "Two."])


def nothing_to_say(progress):
    return None


def rest(seconds):
    time.sleep(seconds)
    return os.getpid()


def interrupt_handler():
    return signal.getsignal(signal.SIGINT)


# A page that has its helper started, and lives until it is killed.
PAGE = """
import os, sys, time
from tuner.service.worker import Worker

worker = Worker()
if __name__ == "__main__":
    print(worker.call(os.getpid), flush=True)
    worker._submit(time.sleep, 600) if "busy" in sys.argv else None
    time.sleep(600)
"""

LOOKS = """
import json, sys
from tuner.recipe import make_recipe
from tuner.service.previewing import look
from tuner.service.worker import Worker

if __name__ == "__main__":
    data = {"source": sys.argv[1]}
    worker = Worker()
    worker.warm()
    found = worker.call(look, make_recipe({"dataset": data, "max_length": 128}))
    assert found["preview"]["rows"] == 24, found["problems"]
    *told, followed = worker.follow(look, make_recipe({"dataset": data, "max_length": 64}))
    assert followed["preview"]["max_length"] == 64
    worker.close()
    print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.close()


def python(path, source, *arguments):
    path.write_text(source)
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_call_returns_what_the_function_returns_in_one_other_process(worker):
    assert worker.call(max, 3, 5) == 5
    assert worker.call(int, "ff", base=16) == 255
    pid = worker.call(os.getpid)
    assert pid != os.getpid()
    assert worker.call(os.getpid) == pid


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("problems", [["One."], ["One.", "Two: “ä”."], "Just one.\nIn two lines."])
def test_a_foreseen_error_comes_back_as_it_was_raised(worker, kind, problems):
    with pytest.raises(kind) as error:
        worker.call(refuse, kind, problems)
    assert type(error.value) is kind
    assert error.value.problems == kind(problems).problems
    assert str(error.value) == str(kind(problems))


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_a_foreseen_error_survives_being_carried_on(kind):
    error = kind(["One.", "Two."])
    for _ in range(3):
        error = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
    assert (type(error), error.problems) == (kind, ["One.", "Two."])


def test_an_unforeseen_error_comes_back_with_the_helpers_traceback(worker):
    with pytest.raises(ZeroDivisionError) as error:
        worker.call(divmod, 1, 0)
    assert "worker" in str(error.value.__cause__) or "process.py" in str(error.value.__cause__)
    assert worker.call(max, 3, 5) == 5


def test_the_rows_done_are_told_while_they_are_and_the_result_is_last(worker):
    *told, result = worker.follow(count, 12, 0.1)
    assert result == "12 rows"
    assert told == sorted(set(told))
    assert told and set(told) <= set(range(1, 13))


def test_a_second_look_does_not_begin_with_the_rows_of_the_first(worker):
    list(worker.follow(count, 12, 0.01))
    told = list(worker.follow(count, 3, 0.3))[:-1]
    assert set(told) <= {1, 2, 3}


def test_a_function_that_tells_nothing_yields_its_result_only(worker):
    assert list(worker.follow(nothing_to_say)) == [None]


def test_an_error_while_rows_are_followed_comes_back_as_it_was_raised(worker):
    with pytest.raises(DatasetError) as error:
        list(worker.follow(count_and_refuse))
    assert error.value.problems == ["One.", "Two."]


def test_who_stops_following_leaves_the_helper_to_others(worker):
    following = worker.follow(count, 4, 0.15)
    next(following)
    following.close()
    assert worker.call(max, 3, 5) == 5


def test_calls_wait_for_one_another(worker):
    begin, pids = time.monotonic(), []
    threads = [
        threading.Thread(target=lambda: pids.append(worker.call(rest, 0.2))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin >= 0.6
    assert len(pids) == 3 and len(set(pids)) == 1


def test_ctrl_c_in_the_terminal_is_left_to_the_page(worker):
    assert worker.call(interrupt_handler) == signal.SIG_IGN


@pytest.mark.parametrize("end", [(os._exit, 1), (signal.raise_signal, signal.SIGKILL)])
def test_a_helper_that_dies_is_a_sentence_and_the_next_call_has_another(worker, end):
    before = worker.call(os.getpid)
    with pytest.raises(DatasetError) as error:
        worker.call(*end)
    assert "ended unexpectedly, often for lack of memory. Try again" in str(error.value)
    assert error.value.__suppress_context__
    assert worker.call(os.getpid) != before
    assert is_gone(before)


def test_a_helper_that_is_killed_while_it_rests_is_replaced(worker):
    before = worker.call(os.getpid)
    os.kill(before, signal.SIGKILL)
    until(lambda: is_gone(before))
    try:
        after = worker.call(os.getpid)
    except DatasetError:  # the pool learns of it in a thread of its own
        after = worker.call(os.getpid)
    assert after != before


def test_a_worker_that_is_closed_has_no_process_and_begins_again_when_it_is_called(worker):
    pid = worker.call(os.getpid)
    worker.close()
    until(lambda: is_gone(pid))
    worker.close()
    assert worker.call(os.getpid) != pid


def test_a_worker_that_nobody_called_has_no_process():
    children = len(psutil.Process().children(recursive=True))
    Worker().close()
    assert len(psutil.Process().children(recursive=True)) == children


@pytest.mark.parametrize("work", ["idle", "busy"])
def test_the_helper_ends_when_the_page_is_killed(tmp_path, work):
    page = python(tmp_path / "page.py", PAGE, work)
    try:
        helper = int(page.stdout.readline())
        children = psutil.Process(page.pid).children(recursive=True)
        assert helper in [child.pid for child in children]
        page.kill()
        page.wait()
        for child in children:  # the helper, and what multiprocessing keeps beside it
            until(lambda child=child: is_gone(child.pid), seconds=10)
    finally:
        page.kill()
        page.stdout.close()


def test_the_page_that_looks_at_data_imports_no_model_library(tmp_path):
    data = tmp_path / "sums.csv"
    data.write_text("question,answer\n" + "".join(f"{n} + {n}?,{2 * n}\n" for n in range(24)))
    page = python(tmp_path / "page.py", LOOKS, str(data))
    output, _ = page.communicate(timeout=120)
    assert page.returncode == 0
    heavy = {"torch", "transformers", "tokenizers", "datasets", "peft", "trl", "gradio"}
    assert '"tuner"' in output
    assert [name for name in heavy if f'"{name}"' in output] == []
