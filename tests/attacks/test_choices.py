"""
What no control of the page offers, sent to every handler and endpoint as plain HTTP: other values,
other types, paths, addresses in place of files. The page answers each, reads and writes nothing of
its machine, asks nobody, and is there for the next.
"""

import asyncio
import concurrent.futures
import json
import uuid

import httpx
import pytest
from gradio import processing_utils

from tuner.ui.same_origin import fetch_nothing

SECRET = "nobody-asked-for-this"
PATHS = ["../../secret.txt", "/etc/passwd", "..\\..\\x", "~/.ssh/id_rsa", "a\0b", "%2e%2e/x"]
NAMES = ["$(touch ran)", "; touch ran #", "`touch ran`", "| touch ran", "-rf", "--help", "\n\r"]
ODD = [
    None,
    True,
    -1,
    1e308,
    {},
    {"a": {"b": 1}},
    [],
    [[["x"]]],
    {"__type__": "update"},
    "x" * 9999,
]
SECONDS = 120
FEW = 8  # at once; the page's queue holds 64


@pytest.fixture(scope="module")
def secret(page):
    path = page.runs_dir.parent / "secret.txt"
    path.write_text(SECRET)
    return path


@pytest.fixture(scope="module")
def config(page):
    return httpx.get(f"{page.url}config", timeout=SECONDS).json()


@pytest.fixture(scope="module")
def handlers(config):
    """Every handler that runs on the server, endpoints included."""
    return [one for one in config["dependencies"] if one["backend_fn"]]


def call(page, handler, data):
    """What the server tells until the handler is done."""
    session = uuid.uuid4().hex
    body = {"data": data, "fn_index": handler["id"], "session_hash": session}
    with httpx.Client(timeout=SECONDS, trust_env=False) as client:
        joined = client.post(f"{page.url}gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return joined.text
        told, address = "", f"{page.url}gradio_api/queue/data?session_hash={session}"
        with client.stream("GET", address) as stream:
            for text in stream.iter_text():
                told += text
                if "process_completed" in told or "close_stream" in told:
                    break
        return told


def call_all(page, calls):
    with concurrent.futures.ThreadPoolExecutor(FEW) as pool:
        return list(pool.map(lambda one: call(page, *one), calls))


def is_harmless(told):
    return not any(word in told for word in (SECRET, "root:", "Traceback", "uid="))


def files_of(page):
    """What lies around the runs, but for the runs' own folder and Gradio's."""
    around = page.runs_dir.parent
    kept = (page.runs_dir, page.uploads)
    return {
        str(path.relative_to(around))
        for path in around.rglob("*")
        if path.is_file() and not any(path.is_relative_to(own) for own in kept)
    }


def test_there_are_handlers_to_attack(handlers):
    names = {one["api_name"] for one in handlers}
    assert names >= {"start", "delete", "take_files", "choose_preset", "ask", "start_run"}


@pytest.mark.parametrize("kind", ["texts", "types"])
def test_every_handler_answers_what_no_control_offers(page, handlers, hostile_run, secret, kind):
    values = {"texts": [*PATHS, *NAMES], "types": ODD}[kind]
    before, runs = files_of(page), set(page.store.ids())
    calls = [
        (handler, [values[(number + at) % len(values)] for at, _ in enumerate(handler["inputs"])])
        for number, handler in enumerate(handlers)
        if handler["inputs"] and handler["api_name"] != "unload"
    ]
    answers = call_all(page, calls)
    for (handler, given), told in zip(calls, answers, strict=True):
        assert is_harmless(told), (handler["api_name"], given, told[-2000:])
    assert httpx.get(page.url, timeout=SECONDS).status_code == 200
    assert set(page.store.ids()) == runs
    assert not [path for path in files_of(page) - before if "ran" in path.split("/")]
    assert secret.read_text() == SECRET


def test_no_handler_fetches_an_address_that_it_is_given_for_a_file(
    page, config, handlers, trap, secret
):
    """Nor one inside a conversation, a card, or any other value."""
    kinds = {one["id"]: one["type"] for one in config["components"]}
    files = [one for one, kind in kinds.items() if kind in ("file", "uploadbutton")]
    addresses = [f"{trap.url}/stolen.csv", "file:///etc/passwd", str(secret)]
    calls = []
    for number, handler in enumerate(handlers):
        takes_files = set(files) & set(handler["inputs"])
        for turn in range(len(addresses)) if takes_files else [number]:
            address = addresses[turn % len(addresses)]
            file = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
            said = [{"role": "user", "content": [{"type": "file", "file": file}]}]
            given = [said if kinds[one] == "chatbot" else file for one in handler["inputs"]]
            calls.append((handler, given))
            if takes_files:
                calls.append((handler, [[one] for one in given]))
    for told in call_all(page, calls):
        assert is_harmless(told), told[-2000:]
    assert trap.asked == []


def test_gradio_downloads_nothing_from_a_public_host_either(monkeypatch, tmp_path):
    names = ("async_ssrf_protected_get", "async_ssrf_protected_download")
    for name in names:  # to be as they were after this test
        monkeypatch.setattr(processing_utils, name, getattr(processing_utils, name))
    checked = processing_utils.sh.async_validate_url
    monkeypatch.setattr(processing_utils.sh, "async_validate_url", checked)
    fetch_nothing()
    for fetch in (
        lambda: processing_utils.async_ssrf_protected_get("https://huggingface.co/x"),
        lambda: processing_utils.async_ssrf_protected_download("https://hf.co/x", str(tmp_path)),
        lambda: processing_utils.sh.async_validate_url("example.org"),
    ):
        with pytest.raises(ValueError, match="fetches no addresses"):
            asyncio.run(fetch())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("route", ["file=", "file/", "proxy=", "stream/", "file=/static/"])
def test_no_route_of_gradios_hands_on_another_hosts_answer(page, trap, route):
    for address in (f"{trap.url}/x", "http://93.184.216.34/", "https://huggingface.co/x"):
        answer = httpx.get(f"{page.url}gradio_api/{route}{address}", timeout=SECONDS)
        assert answer.status_code in (400, 403, 404)
    assert trap.asked == []


@pytest.mark.parametrize(
    "name",
    [
        "../../escaped.csv",
        "/tmp/tuner-escaped.csv",
        "..\\..\\escaped.csv",
        "a\nb.csv",
        "n" * 200 + ".csv",
        "\u202ecsv.exe",
        "$(touch ran).csv",
        "..",
        "ünï/cödé.csv",
    ],
    ids=ascii,
)
def test_an_uploads_name_is_no_path(page, name):
    around = page.runs_dir.parent
    before = {path for path in around.rglob("*") if path.is_file()}
    answer = httpx.post(
        f"{page.url}gradio_api/upload",
        files={"files": (name, b"prompt,answer\na,b\n", "text/csv")},
        timeout=SECONDS,
    )
    assert answer.status_code in (200, 400, 500), answer.text
    new = {path for path in around.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(page.uploads) for path in new)
    for path in json.loads(answer.text) if answer.status_code == 200 else []:
        assert path.startswith(str(page.uploads)) and "/../" not in path


def test_every_answer_tells_browsers_to_keep_to_the_page(page):
    for path in ("", "config", "tuner/runs", "tuner/static/page.js", "gradio_api/info", "nothing"):
        headers = httpx.get(f"{page.url}{path}", timeout=SECONDS).headers
        assert "img-src 'self'" in headers["content-security-policy"]
        assert "connect-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
