"""
The API as its clients meet it: the real page in a process of its own, gradio_client, plain HTTP and
an MCP client. docs/API.md's example is one of the runs.
"""

import ast
import asyncio
import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from tests.ui.asking import asked
from tests.ui.pages import Page
from tuner.data.sources import PROJECT_ROOT
from tuner.errors import RecipeError
from tuner.hub.identity import ARRIVED
from tuner.recipe import make_recipe
from tuner.runs.events import read_events
from tuner.runs.names import slug_of
from tuner.ui.api import Api
from tuner.ui.services import Services

DOCUMENTATION = PROJECT_ROOT / "docs" / "API.md"
ENDPOINTS = {
    "/start_run": ["recipe_yaml", "dataset_file"],
    "/run_status": ["run"],
    "/run_events": ["run", "after"],
    "/list_runs": [],
    "/stop_run": ["run"],
    "/resume_run": ["run"],
    "/pull_run": ["repo", "revision"],
    "/preview_dataset": ["recipe_yaml", "dataset_file"],
    "/estimate": ["recipe_yaml"],
    "/chat_ab": ["run", "prompt", "max_new_tokens", "temperature", "seed"],
}
ROWS = 24
LIMIT = 50_000
SHORT = "max_steps: 4\nbatch_size: 4\nmax_length: 128\nsample_prompts: []\n"
# Long enough to be stopped, and soon done when it is resumed.
LONG_STEPS = 120
LONG = (
    SHORT.replace("4", str(LONG_STEPS), 1) + f"eval_steps: {LONG_STEPS}\nsave_steps: {LONG_STEPS}\n"
)
DATA = "dataset: {columns: {prompt: question, answer: reply}, eval_fraction: 0.2}\n"
WAIT_SECONDS = 150
ENDED = ("completed", "failed", "stopped", "interrupted")
SECRET = "nobody-asked-for-this"


class Caller:
    """The endpoints as functions: `call.run_status(run)`."""

    def __init__(self, url):
        self.client = Client(url, verbose=False)

    def __getattr__(self, name):
        return lambda *arguments: self.client.predict(*arguments, api_name=f"/{name}")

    def refusal(self, name, *arguments):
        """The sentences with which a call is refused."""
        with pytest.raises(AppError) as refused:
            getattr(self, name)(*arguments)
        return str(refused.value)


def wait_until(condition):
    until = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < until, "It took too long."
        time.sleep(0.3)
    return found


def csv_file(folder, name):
    """Questions and replies: columns that have to be mapped."""
    rows = [f"What is {n} plus {n}?,It is {n + n}.\n" for n in range(ROWS)]
    path = folder / name
    path.write_text("question,reply\n" + "".join(rows))
    return path


def example_code():
    return re.search(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)[1]


@pytest.fixture(scope="module")
def call(served):
    return Caller(served.url)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def sums(folder):
    return csv_file(folder, "sums.csv")


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """Another page: with tools, a small limit for uploads, and open to other machines."""
    runs_dir = tmp_path_factory.mktemp("limited") / "runs"
    with Page(runs_dir, "--mcp", "--host", "0.0.0.0", TUNER_MAX_UPLOAD=str(LIMIT)) as page:
        yield page


@pytest.fixture(scope="module")
def example(served, call, folder):
    """The documentation's example at work, as the first in line: run, and the process."""
    csv_file(folder, "support.csv")
    code = example_code().replace("http://127.0.0.1:7860", served.url.rstrip("/"))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield wait_until(lambda: find(call, "-support")), process
    process.kill()
    process.communicate()
    for run in call.list_runs():
        if run["state"] not in ENDED:
            with suppress(AppError):  # it ended by itself a moment ago
                call.stop_run(run["run"])


def find(call, name):
    return next((row["run"] for row in call.list_runs() if row["run"].endswith(name)), None)


@pytest.fixture(scope="module")
def line(call, example, sums, folder):
    """What start_run answered while the example trains: a long run, and one behind it."""
    first = call.start_run(LONG + DATA, handle_file(sums))
    return first, call.start_run(SHORT + DATA, handle_file(csv_file(folder, "later.csv")))


def test_every_endpoint_is_listed_with_words_for_it_and_for_each_argument(call):
    listed = call.client.view_api(return_format="dict", print_info=False)
    assert listed["unnamed_endpoints"] == {}
    named = listed["named_endpoints"]
    assert {
        name: [one["parameter_name"] for one in endpoint["parameters"]]
        for name, endpoint in named.items()
    } == ENDPOINTS
    for endpoint in named.values():
        assert endpoint["description"].endswith(".")
        for argument in endpoint["parameters"]:
            assert argument["label"] == argument["parameter_name"]
            assert argument["python_type"]["description"].endswith(".")
        (answer,) = endpoint["returns"]
        assert answer["label"] == "answer" and answer["python_type"]["description"]


def test_optional_arguments_have_their_defaults(call):
    named = call.client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    optional = {
        (name, one["parameter_name"]): one["parameter_default"]
        for name, endpoint in named.items()
        for one in endpoint["parameters"]
        if one["parameter_has_default"]
    }
    assert optional == {
        ("/start_run", "dataset_file"): None,
        ("/preview_dataset", "dataset_file"): None,
        ("/run_events", "after"): 0,
        ("/pull_run", "revision"): None,
        ("/chat_ab", "max_new_tokens"): 128,
        ("/chat_ab", "temperature"): 0.7,
        ("/chat_ab", "seed"): 7,
    }


def test_the_page_listens_on_this_machine_only(served):
    listening = [
        connection.laddr
        for connection in psutil.Process(served.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", served.port)]


def test_a_second_start_waits_in_line_and_says_its_place(call, line):
    first, second = line
    assert first.keys() == {"run", "dir", "state", "position"}
    assert (first["state"], second["state"]) == ("queued", "queued")
    assert second["position"] == first["position"] + 1
    assert call.run_status(second["run"])["position"] in (1, 2)


def test_a_run_is_stopped_while_it_waits_in_line(call, line):
    answer = call.stop_run(line[1]["run"])
    assert answer["state"] == "stopped"
    assert answer["reason"].startswith("Cancelled while it waited in line.")
    after = call.run_status(line[1]["run"])
    assert (after["state"], after["position"], after["step"]) == ("stopped", 0, 0)


@pytest.mark.parametrize(
    ("name", "arguments", "sentences"),
    [
        ("estimate", ["learning_rate: 7"], "learning_rate=7 cannot be used: it must be 1 or less."),
        ("estimate", ["max_lenght: 8"], "max_lenght is not a recipe setting. Did you mean"),
        ("estimate", ["dataset: ["], "The recipe cannot be read in line 1"),
        ("estimate", ["just words"], "The recipe holds no settings."),
        ("estimate", ["base_model: no/such"], "no/such"),
        ("start_run", [SHORT, None], "There is no data to train on. Give dataset_file, or"),
        ("start_run", ["dataset: {source: gone.csv}", None], "There is no file or folder gone.csv"),
        ("preview_dataset", [SHORT, None], "There is no data to train on."),
        ("run_status", ["nobody"], "There is no run 'nobody'"),
        ("run_status", [7], "There is no run '7'"),
        ("run_events", ["../.."], "There is no run '../..'"),
        ("stop_run", ["nobody"], "There is no run 'nobody'"),
        ("resume_run", [""], "There is no run ''"),
    ],
)
def test_a_refused_call_raises_with_its_sentences(call, name, arguments, sentences):
    said = call.refusal(name, *arguments)
    assert sentences in said
    assert "Traceback" not in said


def test_all_problems_of_a_recipe_arrive_at_once(call):
    said = call.refusal("estimate", "learning_rate: 7\nbatch_size: 0\n")
    named = sorted(line.split("=")[0] for line in said.splitlines())
    assert named == ["batch_size", "learning_rate"]


def test_a_place_among_the_events_that_is_none_is_refused(call, line):
    assert "after='x' is not 0" in call.refusal("run_events", line[0]["run"], "x")


def test_a_run_that_never_began_is_neither_stopped_again_nor_resumed(call, line):
    later = line[1]["run"]
    assert "is stopped: there is nothing to stop" in call.refusal("stop_run", later)
    assert "cannot be resumed" in call.refusal("resume_run", later)


def shell(folder, *words):
    """What the shell answers to the same."""
    command = [sys.executable, "-m", "tuner", *words, "--json"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run(
        command, check=True, cwd=folder, env=environment, capture_output=True, timeout=120
    )
    return json.loads(done.stdout)


def test_preview_and_estimate_answer_as_the_shell_does(call, folder, sums):
    recipe = SHORT + DATA.replace("{", "{source: " + f"{sums}, ", 1)
    (folder / "recipe.yaml").write_text(recipe)
    shown = shell(folder, "preview", "--recipe", "recipe.yaml")
    assert call.preview_dataset(recipe) == shown
    assert call.preview_dataset(SHORT + DATA, handle_file(sums)) == shown
    assert (shown["rows"], len(shown["examples"])) == (ROWS, 3)

    ours, theirs = call.estimate(recipe), shell(folder, "estimate", "--recipe", "recipe.yaml")
    now = {"available_memory_bytes", "estimated_seconds"}  # measured at each call
    assert ours.keys() == theirs.keys()
    assert {key for key in ours if ours[key] != theirs[key]} <= now
    assert ours["train_rows"] == shown["train_rows"]
    assert ours["estimated_seconds"] > 0


def test_an_estimate_needs_no_data(call):
    assert call.estimate("max_steps: 5")["train_rows"] is None


def test_a_mapping_in_the_recipe_holds_for_the_uploaded_file(call, sums):
    other = "{source: presets/data/chatbot.jsonl, columns: {prompt: reply, answer: question}}"
    shown = call.preview_dataset(f"{SHORT}dataset: {other}", handle_file(sums))
    assert shown["source"] == "sums.csv"
    assert shown["recognised"]["columns"] == {"prompt": ["reply"], "answer": ["question"]}


def test_the_example_in_the_documentation_runs(served, example, folder, line):
    run, process = example
    said, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, errors
    steps = re.findall(r"step (\d+) of 8: loss \d", said)
    assert [int(step) for step in steps] == list(range(1, 9))
    assert "loss on held-out rows: " in said
    with zipfile.ZipFile(folder / "adapter.zip") as archive:
        assert "adapter/adapter_model.safetensors" in archive.namelist()
    assert served.store.get(run).status()["state"] == "completed"


def test_a_question_to_nobody_is_a_sentence(call):
    assert "There is no run 'nobody'" in call.refusal("chat_ab", "nobody", "Hi")


def test_the_tables_of_the_documentation_name_every_endpoint_and_kind_of_event(call, example):
    text = DOCUMENTATION.read_text()
    for name, arguments in ENDPOINTS.items():
        row = re.search(rf"^\| `{name}` \|(.*?)\|", text, re.MULTILINE)[1]
        assert re.findall(r"`(\w+)", row) == arguments
    kinds = {event["kind"] for event in call.run_events(example[0])["events"]}
    assert kinds >= {"state", "log", "metric", "eval", "checkpoint"}
    for kind in kinds:
        assert re.search(rf"^\|.*`{kind}`.*\|", text, re.MULTILINE)


class Follower:
    """Reads a run's events as they come."""

    def __init__(self, call, run):
        self.call, self.run, self.after, self.events = call, run, 0, []

    def state(self):
        status = self.call.run_status(self.run)
        answer = self.call.run_events(self.run, self.after)
        self.after = answer["next"]
        self.events += answer["events"]
        return status["state"]

    def has_made_steps(self):
        assert self.state() not in ENDED, self.call.run_status(self.run)["reason"]
        return any(event["kind"] == "metric" for event in self.events)

    def ended(self):
        return self.state() in ENDED


@pytest.fixture(scope="module")
def follower(call, line):
    return Follower(call, line[0]["run"])


@pytest.fixture(scope="module")
def stopped(call, follower):
    """The answer of stop_run, in the middle of training."""
    wait_until(follower.has_made_steps)
    answer = call.stop_run(follower.run)
    follower.state()
    return answer


def test_stop_run_returns_when_the_run_has_ended_and_its_adapter_is_there(
    served, call, follower, stopped
):
    assert stopped.keys() == {"run", "dir", "state", "reason"}
    assert (stopped["state"], stopped["run"]) == ("stopped", follower.run)
    assert 0 < call.run_status(follower.run)["step"] < LONG_STEPS
    answer = httpx.get(f"{served.url}tuner/runs/{follower.run}/files/adapter.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert "adapter/adapter_model.safetensors" in archive.namelist()


def test_resume_run_completes_it_and_its_events_were_told_once_and_in_order(
    served, call, follower, stopped
):
    assert call.resume_run(follower.run)["state"] == "queued"
    wait_until(follower.ended)
    status = call.run_status(follower.run)
    assert (status["state"], status["step"]) == ("completed", LONG_STEPS)
    assert status["result"]["base_weights_unchanged"] is True

    written, end = read_events(served.store.get(follower.run).events_path)
    assert [event["seq"] for event in follower.events] == [event["seq"] for event in written]
    renamed = [
        {"folder" if key == "path" else key: value for key, value in event.items()}
        for event in written
    ]
    assert follower.events == renamed == call.run_events(follower.run)["events"]
    assert call.run_events(follower.run, follower.after) == {"events": [], "next": end}
    assert any("resumed_from" in event for event in written)


def test_base_and_tuned_answer_one_question_as_they_do_in_the_shell(served, call, example, folder):
    run = example[0]
    job = call.client.submit(run, "What is 2 plus 3?", 12, 0.0, api_name="/chat_ab")
    answer = job.result(timeout=WAIT_SECONDS)
    assert [one["name"] for one in answer["answers"]] == ["base", slug_of(run)]
    assert len(job.outputs()) > 1, "It came at once."
    words = ["--prompt", "What is 2 plus 3?", "--temperature", "0", "--max-new-tokens", "12"]
    told = shell(folder, "chat", run, *words, "--runs-dir", str(served.runs_dir))
    assert [one["text"] for one in answer["answers"]] == [one["text"] for one in told["answers"]]


def test_a_completed_run_is_neither_stopped_nor_resumed(call, example):
    assert "is completed: there is nothing to stop" in call.refusal("stop_run", example[0])
    assert "completed; there is nothing to resume" in call.refusal("resume_run", example[0])


def test_a_run_is_called_by_its_name_and_listed_as_the_shell_lists_it(served, call, line, folder):
    assert call.run_status("sums")["run"] == line[0]["run"]
    rows = call.list_runs()
    assert [row["run"] for row in rows][:2] == [line[1]["run"], line[0]["run"]]
    assert rows == shell(folder, "runs", "--runs-dir", str(served.runs_dir))


def test_an_uploaded_file_is_kept_beside_the_runs_and_trained_on(served, line, stopped):
    run = served.store.get(line[0]["run"])
    source = Path(run.recipe().dataset.source)
    assert source.is_relative_to(served.runs_dir / ".uploads") and source.name == "sums.csv"
    trained = (run.data_dir / "train.jsonl").read_text()
    assert "It is 46." in trained or "It is 46." in (run.data_dir / "eval.jsonl").read_text()


def test_the_page_loads_no_model_library_whatever_it_was_asked(served, call, sums, stopped):
    call.preview_dataset(SHORT + DATA, handle_file(sums))
    page = psutil.Process(served.pid)
    loaded = Path(f"/proc/{page.pid}/maps").read_text()
    helpers = [Path(f"/proc/{one.pid}/maps").read_text() for one in page.children(recursive=True)]
    # transformers has no library of its own; it cannot be imported without tokenizers.
    assert any("/tokenizers/" in maps for maps in helpers)
    assert "/tokenizers/" not in loaded
    assert "libtorch" not in loaded


# What nobody gets.


@pytest.fixture(scope="module")
def secret(served, folder):
    """A file that nobody uploaded, and the run's files that no list offers."""
    path = served.runs_dir.parent / "secret.jsonl"
    path.write_text(json.dumps({"prompt": SECRET, "answer": SECRET}) + "\n")
    return path


def get(url, path):
    """GET with the path exactly as it is: other clients tidy up its dots."""
    host = httpx.URL(url)
    connection = http.client.HTTPConnection(host.host, host.port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/file=", "/gradio_api/file/"])
def test_files_are_not_served_by_a_path(served, line, secret, prefix):
    run = served.store.get(line[0]["run"])
    source = run.recipe().dataset.source
    wanted = [secret, run.recipe_path, run.log_path, source, "/etc/passwd", "/proc/self/environ"]
    wanted += [f"{served.uploads}/../secret.jsonl", f"{served.uploads}/%2e%2e/secret.jsonl"]
    wanted += ["app.py", "tuner/ui/app.py", "../../../../../../etc/passwd", f"file://{secret}"]
    for path in wanted:
        status, content = get(served.url, f"{prefix}{path}")
        assert status in (403, 404), path
        assert SECRET.encode() not in content and b"root:" not in content


@pytest.mark.parametrize(
    "path",
    [
        "/tuner/runs/RUN/files/status.json",
        "/tuner/runs/RUN/files/../status.json",
        "/tuner/runs/RUN/files/..%2fstatus.json",
        "/tuner/runs/RUN/files/%2e%2e%2f%2e%2e%2fsecret.jsonl",
        "/tuner/runs/RUN/files/data%2ftrain.jsonl",
        "/tuner/runs/..%2f..%2f..%2fetc/files/passwd",
        "/tuner/runs/.uploads/files/events.jsonl",
        "/tuner/runs/%2e%2e/live",
        "/tuner/static/../access.py",
        "/tuner/static/..%2faccess.py",
        "/tuner/static/%2e%2e/%2e%2e/%2e%2e/app.py",
        "/static/..%2f..%2froutes.py",
        "/gradio_api/proxy=http://127.0.0.1:9/",
    ],
)
def test_our_own_routes_serve_nothing_beside_their_list(served, line, secret, path):
    status, content = get(served.url, path.replace("RUN", line[0]["run"]))
    assert status in (400, 403, 404)
    for told in (SECRET, "root:", "class Access", "def main", "waiting_since"):
        assert told.encode() not in content


def config(page):
    return httpx.get(f"{page.url}config").json()


def handlers(page):
    """Name → what the page's configuration says of each handler that runs on the server."""
    return {one["api_name"]: one for one in config(page)["dependencies"] if one["backend_fn"]}


def over_http(page, handler, data):
    """Run a handler as the page's own script does; what the server tells until it is done."""
    session = uuid.uuid4().hex
    body = {"data": data, "fn_index": handler["id"], "session_hash": session}
    joined = httpx.post(f"{page.url}gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    told = ""
    with httpx.stream(
        "GET", f"{page.url}gradio_api/queue/data", params={"session_hash": session}, timeout=60
    ) as stream:
        for text in stream.iter_text():
            told += text
            if "process_completed" in told or "close_stream" in told:
                break
    return told


def test_no_handler_of_the_page_is_offered_to_clients(served, call):
    private = {name for name, one in handlers(served).items() if f"/{name}" not in ENDPOINTS}
    assert {"start", "delete", "upload_recipe", "take_files"} <= private
    for name in sorted(private):
        assert handlers(served)[name]["api_visibility"] == "private"
    for name in ("start", "delete"):
        with pytest.raises(ValueError, match="Cannot find a function"):
            call.client.predict("", api_name=f"/{name}")
    described = httpx.get(f"{served.url}gradio_api/openapi.json").text
    assert "/delete" not in described and "/run_status" in described


def test_no_handler_takes_a_file_of_the_server_for_an_upload(served, secret):
    page = config(served)
    files = {one["id"] for one in page["components"] if one["type"] in ("file", "uploadbutton")}
    takers = [one for one in handlers(served).values() if files & set(one["inputs"])]
    assert {one["api_name"] for one in takers} >= {"upload_recipe", "take_files", "start_run"}
    many = {one["id"] for one in page["components"] if one["props"].get("file_count") == "multiple"}
    for path in (str(secret), f"{served.uploads}/../secret.jsonl", "/etc/passwd"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for taker in takers:
            given = [
                ([file] if one in many else file) if one in files else "" for one in taker["inputs"]
            ]
            told = over_http(served, taker, given)
            assert '"success":false' in told, taker["api_name"]
            assert SECRET not in told and "root:" not in told


def test_private_handlers_over_http_do_what_the_page_does_and_no_more(served, line, example):
    """They are not shut: whoever reaches the page may do what its buttons do."""
    named = handlers(served)
    assert "There is no run" in over_http(served, named["delete"], ["../../etc"])
    assert "There is no run" in over_http(served, named["stop"], ["../" + line[0]["run"]])
    told = over_http(served, named["start"], [None, "dataset: [", ""])
    assert "The recipe cannot be read" in told
    assert served.store.get(line[0]["run"]).dir.is_dir()
    # Not past the queue, which limits how many run at once.
    for name in ("delete", "start", "run_status", "preview_dataset"):
        answer = httpx.post(f"{served.url}gradio_api/api/{name}", json={"data": [""] * 2})
        assert answer.status_code == 404


def test_a_page_that_is_open_to_others_reads_none_of_its_machines_files(store, secret):
    api = Api(Services.of(store, open_to_others=True))
    source, base = f"dataset: {{source: {secret}}}", f"base_model: {secret.parent}"
    for endpoint, recipe in (
        (api.start_run, source),
        (api.preview_dataset, source),
        (api.estimate, source),
        (api.estimate, base),
    ):
        with pytest.raises(RecipeError, match="is a path of this machine"):
            endpoint(recipe, asked())
    assert store.list() == []


def test_another_site_may_not_call_a_page_on_a_loopback_address(served):
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{served.url}gradio_api/queue/join", headers=asked)
    assert "example.org" not in answer.headers.get("access-control-allow-origin", "")


# Uploads.


def test_an_upload_beyond_the_limit_is_refused_and_nothing_of_it_stays(limited, folder):
    large = folder / "large.csv"
    large.write_text("question,reply\n" + "a,b\n" * LIMIT)
    with pytest.raises(ValueError, match=f"exceeds the maximum file size of {LIMIT} bytes"):
        Caller(limited.url).preview_dataset(SHORT, handle_file(large))
    with large.open("rb") as file:
        answer = httpx.post(f"{limited.url}gradio_api/upload", files={"files": file})
    assert answer.status_code == 413
    left = [path for path in limited.uploads.rglob("*") if path.is_file()]
    assert [path for path in left if path.stat().st_size > LIMIT] == []


def test_an_upload_within_the_limit_is_taken(limited, sums):
    assert sums.stat().st_size < LIMIT
    assert Caller(limited.url).preview_dataset(SHORT + DATA, handle_file(sums))["rows"] == ROWS


# Tools.


def ask_tools(page, *calls, headers=None):
    """What an MCP client hears: the tools, and the answer of each call."""

    async def ask():
        address = f"{page.url}gradio_api/mcp/"
        async with (
            streamablehttp_client(address, headers) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            return tools, [await session.call_tool(name, given) for name, given in calls]

    return asyncio.run(asyncio.wait_for(ask(), WAIT_SECONDS))


def test_with_mcp_the_endpoints_are_tools(limited):
    tools, (listed, estimated, refused) = ask_tools(
        limited,
        ("list_runs", {}),
        ("estimate", {"recipe_yaml": "max_steps: 5"}),
        ("run_status", {"run": "nobody"}),
    )
    assert {tool.name: list(tool.inputSchema["properties"]) for tool in tools} == {
        name.lstrip("/"): arguments for name, arguments in ENDPOINTS.items()
    }
    for tool in tools:
        assert tool.description
        assert all(one["description"] for one in tool.inputSchema["properties"].values())
    # Gradio's tools answer with Python's way to write it: None, True, single quotes.
    assert ast.literal_eval(listed.content[0].text) == []
    assert ast.literal_eval(estimated.content[0].text)["fits"] is True
    assert refused.isError and "There is no run 'nobody'" in refused.content[0].text


FROM_ELSEWHERE = """
import json, sys, types
from tests.ui.test_api import ask_tools
page = types.SimpleNamespace(url=sys.argv[1])
for headers in json.loads(sys.argv[3]):
    (answer,) = ask_tools(page, ("run_status", {"run": sys.argv[2]}), headers=headers)[1]
    print(answer.content[0].text)
"""


def test_who_calls_a_tool_from_elsewhere_is_a_visitor_whatever_they_say(limited):
    known = [one for addresses in psutil.net_if_addrs().values() for one in addresses]
    found = [one.address for one in known if one.family is socket.AF_INET]
    elsewhere = next((one for one in found if not one.startswith("127.")), None)
    if elsewhere is None:
        pytest.skip("This machine has no address by which others could reach it.")
    recipe = make_recipe({"dataset": {"source": "rows.csv"}})
    run = limited.store.create(recipe, "bot").id
    (here,) = ask_tools(limited, ("run_status", {"run": run}))[1]
    assert not here.isError and run in here.content[0].text
    address = limited.url.replace("127.0.0.1", elsewhere)
    tried = [{}, {"Host": "localhost"}, {"Host": "localhost", ARRIVED: "127.0.0.1 x"}]
    # A process of its own: this one may reach no address but 127.0.0.1.
    command = [sys.executable, "-c", FROM_ELSEWHERE, address, run, json.dumps(tried)]
    there = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, check=False)
    told = there.stdout.decode().splitlines()
    assert len(told) == len(tried), there.stderr.decode()
    assert all("There is no run" in line for line in told)


def test_without_mcp_there_are_no_tools(served):
    hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    asked = {"Accept": "application/json, text/event-stream"}
    for path in ("mcp/", "mcp/sse", "mcp/schema"):
        answer = httpx.post(f"{served.url}gradio_api/{path}", json=hello, headers=asked)
        assert answer.status_code in (404, 405)
        assert "tools" not in answer.text
