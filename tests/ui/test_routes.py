"""What the page's elements get over HTTP, and what nobody gets."""

import io
import threading
import zipfile

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.ui.telling import lives, metric
from tuner.ui import live, run_list
from tuner.ui.access import Everyone
from tuner.ui.live import LiveRun
from tuner.ui.routes import routes


class OnlyFor(Everyone):
    """Shows a run to the person whose name is in the request's header."""

    def may_see(self, request, run):
        return run.status()["owner"] == request.headers.get("person")


@pytest.fixture
def page(store, monkeypatch):
    monkeypatch.setattr(live, "STATUS_SECONDS", 0)
    monkeypatch.setattr(run_list, "LIST_SECONDS", 0)
    with TestClient(Starlette(routes=routes(store, Everyone()))) as page:
        yield page


def test_a_story_is_told_once_and_then_what_is_new(page, run, events):
    lives(run)
    metric(events, 1)
    first = page.get(f"/tuner/runs/{run.id}/live")
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["content-type"] == "application/json"
    known = {"after": first.json()["next"], "version": first.json()["version"]}
    nothing = page.get(f"/tuner/runs/{run.id}/live", params=known)
    assert (nothing.status_code, nothing.content) == (204, b"")
    metric(events, 2)
    new = page.get(f"/tuner/runs/{run.id}/live", params=known).json()
    assert (new["reset"], new["curves"]["loss"]) == (False, [[2, 1.0]])


@pytest.mark.parametrize("after", ["", "x", "-1", "1.5", "9" * 5000, "١٢", "0x10", "1_0", " 1"])
def test_an_after_that_is_no_offset_gets_the_whole_story(page, run, events, after):
    metric(events, 1)
    reply = page.get(f"/tuner/runs/{run.id}/live", params={"after": after})
    assert reply.status_code == 200 and reply.json()["reset"] is True


@pytest.mark.parametrize("version", ["", "x", "..", "a.b.c", "." * 1000, "\x00"])
def test_a_version_that_was_never_given_is_answered(page, run, events, version):
    metric(events, 1)
    known = {"after": "0", "version": version}
    reply = page.get(f"/tuner/runs/{run.id}/live", params=known)
    assert reply.status_code == 200 and reply.json()["curves"]["loss"] == [[1, 1.5]]


@pytest.mark.parametrize(
    "name",
    [
        "support-bot",
        "20261123-0915-nobody",
        "..",
        "%2e%2e",
        "..%2f..%2fetc",
        "%2Fetc%2Fpasswd",
        "%00",
        "x" * 5000,
        "%ff",
    ],
)
@pytest.mark.parametrize("what", ["live", "files/recipe.yaml"])
def test_whatever_is_no_runs_exact_id_is_not_found(page, run, name, what):
    assert page.get(f"/tuner/runs/{name}/{what}").status_code == 404


def test_a_run_outside_the_store_is_not_found_through_a_link(page, store, run, tmp_path):
    outside = tmp_path / "20261123-0915-outside"
    run.dir.rename(outside)
    (store.root / outside.name).symlink_to(outside, target_is_directory=True)
    assert page.get(f"/tuner/runs/{outside.name}/live").status_code == 404


def test_a_run_that_was_deleted_meanwhile_is_not_found(page, store, run):
    address = f"/tuner/runs/{run.id}/live"
    known = page.get(address).json()
    store.delete(run.id)
    gone = page.get(address, params={"after": known["next"], "version": known["version"]})
    assert gone.status_code == 404
    assert gone.json() == {"error": f"There is no run {run.id!r}."}


def test_a_run_that_somebody_may_not_see_answers_as_one_that_does_not_exist(store, recipe):
    mine = store.create(recipe, "mine", owner="ada")
    run_id = mine.id
    addresses = [
        f"/tuner/runs/{run_id}/live",
        f"/tuner/runs/{run_id}/files/recipe.yaml",
        f"/tuner/compare?run={run_id}&run={run_id}-2",
    ]
    with TestClient(Starlette(routes=routes(store, OnlyFor()))) as page:
        listed = page.get("/tuner/runs", headers={"person": "ada"}).json()
        assert [line["run"] for line in listed] == [run_id]
        assert page.get("/tuner/runs", headers={"person": "eve"}).json() == []
        assert page.get(addresses[0], headers={"person": "ada"}).status_code == 200
        hidden = [page.get(address, headers={"person": "eve"}) for address in addresses]
        store.delete(run_id)
        gone = [page.get(address, headers={"person": "eve"}) for address in addresses]
    assert [(r.status_code, r.content) for r in hidden] == [
        (r.status_code, r.content) for r in gone
    ]
    assert {reply.status_code for reply in hidden} == {404}


def test_the_list_has_a_line_for_every_run_the_newest_first(page, store, recipe, run, events):
    lives(run, max_steps=100)
    events.write("eval", step=0, eval_loss=4.0)
    for step in range(1, 101):
        metric(events, step)
    events.write("eval", step=100, eval_loss=2.0)
    newer = store.create(recipe, "newer")
    first, second = page.get("/tuner/runs").json()
    assert (first["run"], first["state"], first["spark"]) == (newer.id, "queued", [])
    assert (second["name"], second["method"]) == ("support-bot", "LoRA 16-bit")
    assert (second["step"], second["max_steps"]) == (100, 100)
    assert (second["base_eval_loss"], second["eval_loss"]) == (4.0, 2.0)
    assert len(second["spark"]) == 40 and second["spark"][-1] == 3 / 101


def test_a_finished_run_is_listed_with_the_loss_of_its_kept_weights(page, run, events):
    events.write("eval", step=10, eval_loss=2.0)
    events.write("eval", step=20, eval_loss=2.5)
    run.write_result({"eval_loss": 2.0})
    run.update_status(state="completed", started=run.status()["created"], step=20)
    (line,) = page.get("/tuner/runs").json()
    assert line["eval_loss"] == 2.0 and 0 <= line["seconds"] < 60


def test_a_run_with_a_broken_recipe_and_result_is_listed_all_the_same(page, run):
    run.recipe_path.write_text("- not\n- a recipe")
    run.result_path.write_text("{")
    (line,) = page.get("/tuner/runs").json()
    assert (line["run"], line["method"], line["rows"]) == (run.id, None, None)
    reply = page.get(f"/tuner/runs/{run.id}/live").json()
    assert reply["facts"] == [] and reply["result"] is None


def test_an_ended_run_has_its_result_files_and_code(page, run):
    run.adapter_dir.mkdir()
    (run.adapter_dir / "adapter_config.json").write_text("{}")
    run.write_result({"eval_loss": 1.5, "base_eval_loss": 2.5, "eval_rows": 40})
    run.update_status(state="completed")
    reply = page.get(f"/tuner/runs/{run.id}/live").json()
    assert reply["result"] == [["Eval loss", "2.50 → 1.50 on 40 held-out rows"]]
    assert [found["name"] for found in reply["files"]] == [
        "adapter.zip",
        "recipe.yaml",
        "result.json",
    ]
    assert 'from_pretrained(base, "adapter")' in reply["use"]
    assert reply["status"]["has_adapter"] is True


def test_runs_are_compared_by_their_losses_and_the_settings_that_differ(page, store, recipe):
    made = [
        store.create(recipe.model_copy(update={"learning_rate": rate}), name)
        for rate, name in ((2e-4, "low"), (2e-3, "high"))
    ]
    ids = [run.id for run in made]
    answer = page.get("/tuner/compare", params={"run": ids}).json()
    assert [told["run"] for told in answer["runs"]] == ids
    assert answer["runs"][0]["loss"] == []
    assert answer["settings"] == [{"setting": "learning_rate", "values": ["0.0002", "0.002"]}]


def test_a_deleted_run_can_no_longer_be_compared(page, store, recipe):
    ids = [store.create(recipe, name).id for name in ("a", "b")]
    assert page.get("/tuner/compare", params={"run": ids}).status_code == 200
    store.delete(ids[1])
    answer = page.get("/tuner/compare", params={"run": ids})
    assert answer.status_code == 404 and str(store.root) not in answer.text


@pytest.mark.parametrize("count", [0, 1, 9])
def test_one_run_or_more_than_eight_cannot_be_compared(page, count):
    answer = page.get("/tuner/compare", params={"run": [str(number) for number in range(count)]})
    assert answer.status_code == 400 and "2 to 8" in answer.json()["error"]


def test_a_download_is_an_attachment_named_after_its_run(page, run):
    run.adapter_dir.mkdir()
    (run.adapter_dir / "adapter_config.json").write_text("{}")
    answer = page.get(f"/tuner/runs/{run.id}/files/adapter.zip")
    assert "attachment" in answer.headers["content-disposition"]
    assert "support-bot-adapter.zip" in answer.headers["content-disposition"]
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert names == ["adapter/adapter_config.json"]


def test_a_run_named_in_another_script_can_be_downloaded(page, store, recipe):
    run = store.create(recipe, "Служба поддержки")
    answer = page.get(f"/tuner/runs/{run.id}/files/recipe.yaml")
    assert answer.content == run.recipe_path.read_bytes()


@pytest.mark.parametrize("name", ["status.json", "..%2fstatus.json", "%2e%2e", "adapter", "data"])
def test_no_other_file_can_be_downloaded(page, run, name):
    assert page.get(f"/tuner/runs/{run.id}/files/{name}").status_code == 404


def test_a_file_that_cannot_be_read_is_told_in_a_sentence(page, run, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LiveRun, "reply", broken)
    answer = page.get(f"/tuner/runs/{run.id}/live")
    assert answer.status_code == 500
    assert answer.json() == {"error": "The run's files cannot be read: Input/output error."}


def test_a_long_first_read_is_not_done_in_the_event_loop(page, run, events, monkeypatch):
    threads = []
    reply = LiveRun.reply
    seen = lambda *given: threads.append(threading.current_thread().name) or reply(*given)  # noqa: E731
    monkeypatch.setattr(LiveRun, "reply", seen)
    metric(events, 1)
    first = page.get(f"/tuner/runs/{run.id}/live").json()
    known = {"after": first["next"], "version": first["version"]}
    metric(events, 2)
    page.get(f"/tuner/runs/{run.id}/live", params=known)
    for _ in range(200):
        events.write("log", message="x" * 2000)
    page.get(f"/tuner/runs/{run.id}/live", params=known)
    assert threads[0] != threads[1] and threads[1] != threads[2]


def test_nothing_can_be_written(page, run):
    for address in ("/tuner/runs", f"/tuner/runs/{run.id}/live"):
        assert page.post(address).status_code == 405
