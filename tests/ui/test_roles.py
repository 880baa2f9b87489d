"""
Every route, handler and endpoint of the page on a Space, asked by everybody: its owner, two who
signed in, and a visitor. bob has a private run and one that he shows to everybody; carl may train
here as well; a visitor may not.

A handler that is added to the page needs a line in HANDLERS, or the first test fails.
The sign-in itself is in test_sign_in.py.
"""

import json
import re
import shutil
import time
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.routing import Route

from tests.ui.asking import cookie_of, session_of
from tests.ui.handlers import Caller
from tests.ui.pages import Page
from tuner.recipe import make_recipe
from tuner.runs.store import RunStore
from tuner.ui.access import Everyone
from tuner.ui.draft import first_draft
from tuner.ui.publish_files import Exports, export_routes
from tuner.ui.routes import routes
from tuner.ui.run_list import LIST_SECONDS
from tuner.ui.uploads import keep_uploads

OAUTH_SECRET = "of the Space"
SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "ann/tuner",
    "SPACE_AUTHOR_NAME": "ann",
    "SPACE_CREATOR_USER_ID": "id-of-ann",
    "OAUTH_CLIENT_ID": "tuner",
    "OAUTH_CLIENT_SECRET": OAUTH_SECRET,
    "OAUTH_SCOPES": "openid profile",
    "OPENID_PROVIDER_URL": "http://127.0.0.1:9",
    "TUNER_TRAINING": "signed-in",
    "TUNER_QUESTIONS_PER_MINUTE": "1000",
    "HF_HUB_OFFLINE": "1",
}
PEOPLE = ("ann", "bob", "carl", "visitor")
STRANGERS = ("carl", "visitor")
NO_RUN = "There is no run"
NOT_YOURS = "is not yours"
SECRET = "The launch code is 0451"

RUN, RECIPE = "<run>", "<recipe>"
PANES, DRAWN = [[]] * 8, ["", 0.0, 8, 7, 1, 0, 0, 1, ""]
ASKED = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]


@dataclass(frozen=True)
class Sees:
    """Answers about a run to who may see it; to others it does not exist."""

    data: list[Any]


@dataclass(frozen=True)
class Changes:
    """Does something with a run for who may change it; others who see it are told so."""

    data: list[Any]


@dataclass(frozen=True)
class Lists:
    """Names the runs that somebody may see."""

    data: list[Any]
    mine_only: bool = False


@dataclass(frozen=True)
class Reads:
    """Reads or looks up what a recipe names."""

    data: list[Any]


@dataclass(frozen=True)
class Free:
    """Nothing of anybody is in it."""

    why: str


TEXT = Free("changes the draft's text, which comes with the event")
WORDS = Free("says the same to everybody")
TARGET = ["", "", True, "", "", None]

HANDLERS = {
    "tell": Free("says whether one may duplicate the Space"),
    # The form.
    "choose_preset": TEXT,
    "choose_base_model": Reads([None, "", RECIPE]),
    "choose_method": TEXT,
    "begin_with_run": Sees([None, "", RUN]),
    "upload_recipe": Free("a recipe that was uploaded a moment before"),
    "type_recipe": TEXT,
    "type_recipe_1": TEXT,
    "offer_earlier_runs": Lists([]),
    "set_fields": TEXT,
    "choose_data_kind": TEXT,
    "take_files": Free("see test_who_may_not_train_keeps_no_upload"),
    "choose_hub_dataset": TEXT,
    "map_columns": TEXT,
    "use_suggestion": TEXT,
    "ask_own_questions": TEXT,
    "turn": Reads([RECIPE, 1]),
    "turn_1": Reads([RECIPE, 1]),
    "turn_2": Reads([RECIPE, 1]),
    "draw": Reads([RECIPE]),
    "write_cleaned": Reads([RECIPE]),
    "follow": Reads([None, RECIPE, None]),
    "follow_1": Reads([None, RECIPE, None]),
    "restore": TEXT,
    "start": Reads([None, RECIPE, "bot"]),
    # A run.
    "stop": Changes([RUN]),
    "leave": Changes([RUN]),
    "resume": Changes([RUN]),
    "publicize": Changes([RUN]),
    "hide": Changes([RUN]),
    "again": Sees([RUN, None]),
    "ask": Changes([RUN]),
    "delete": Changes([RUN]),
    "lambda": WORDS,
    # The playground.
    "open_run": Sees([RUN]),
    "open_base": Reads([RECIPE]),
    "offer": Lists([]),
    "offer_1": Lists([]),
    "choose": Sees([RUN]),
    "change_panes": Sees([RUN, [], False]),
    "ask_1": Sees(["Hi", RUN, [], False, *PANES, *DRAWN]),
    "ask_again": Sees([RUN, [], False, *ASKED, *PANES[1:], *DRAWN]),
    "lambda_1": WORDS,
    "take_held_out": Free("see test_a_run_that_is_shown_shows_no_data"),
    "edit": Free("moves what the tab holds"),
    "clear": Free("empties the tab"),
    **{f"vote{n}": Sees([RUN, [0, 1], *ASKED, *ASKED]) for n in ("", "_1", "_2", "_3")},
    "what_changed": Sees([RUN, "", *ASKED]),
    "save": Sees([RUN, [], *PANES, *DRAWN]),
    "save_1": Sees([RUN, [], *PANES, *DRAWN]),
    "unload": Free("see test_only_the_owner_takes_the_model_out_of_memory"),
    # Publish.
    "offer_2": Lists([], mine_only=True),
    "offer_3": Lists([], mine_only=True),
    "show_whom": Free("says as whom one would publish"),
    "choose_1": Changes([RUN]),
    **{f"suggest{n}": Changes([RUN, "", "", None]) for n in ("", "_1")},
    **{f"check{n}": Changes([RUN, *TARGET]) for n in ("", "_1", "_2")},
    "open_run_1": Changes([RUN]),
    "show_card": Changes(["Source", "", RUN]),
    "write_anew": Changes([RUN, ""]),
    "type_repo": TEXT,
    "show_contents": Changes([RUN, "adapter"]),
    "publish": Changes([RUN, *TARGET, "adapter", ""]),
    **{f"failed{n}": WORDS for n in ("", "_1", "_2", "_3")},
    **{f"cancelled{n}": WORDS for n in ("", "_1")},
    **{name: Changes([RUN]) for name in ("merged", "script", "notebook")},
    # The API.
    "run_status": Sees([RUN]),
    "run_events": Sees([RUN, 0]),
    "list_runs": Lists([]),
    "stop_run": Changes([RUN]),
    "resume_run": Changes([RUN]),
    "pull_run": Free("reads the Hub with one's own token; refused below, and see test_saves.py"),
    "estimate": Reads([RECIPE]),
    "chat_ab": Sees([RUN, "Hi", 8, 0.0, 7]),
    "start_run": Reads([RECIPE, None]),
    "preview_dataset": Reads([RECIPE, None]),
    "_check_login_status": Free("Gradio's own, of one's own session"),
}
# They show nothing of a run and ask the Hub first, whose name is empty here.
SAY_LITTLE = {"suggest", "suggest_1", "check", "check_1", "check_2", "show_card"}


def names(kind):
    return sorted(name for name, what in HANDLERS.items() if isinstance(what, kind))


def filled(name, value):
    return [value if one in (RUN, RECIPE) else one for one in HANDLERS[name].data]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with Page(tmp_path_factory.mktemp("space") / "runs", "--host", "127.0.0.1", **SPACE) as page:
        yield page


@pytest.fixture(scope="module")
def people(page):
    """Everybody, with a tab of the page that knows which runs it was offered."""
    cookies = {name: cookie_of(session_of(name), OAUTH_SECRET) for name in PEOPLE[:3]}
    people = {name: Caller(page, cookies.get(name)) for name in PEOPLE}
    yield people
    for caller in people.values():
        caller.close()


@pytest.fixture(autouse=True)
def fresh_tabs(people):
    for caller in people.values():
        caller.new_tab()


@pytest.fixture
def runs(page, people, tmp_path):
    """bob's private run and the one that he shows, neither of which has begun."""
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps({"prompt": "What is it?", "answer": SECRET}))
    source = keep_uploads([secret], page.store.root, "bob")
    recipe = make_recipe({"dataset": {"source": str(source), "system_prompt": SECRET}})
    private = page.store.create(recipe, "hidden", owner="bob")
    shown = page.store.create(recipe, "shown", owner="bob")
    shown.update_status(public=True)
    for run in (private, shown):  # enough of an adapter to be offered
        run.adapter_dir.mkdir()
    for caller in people.values():
        for offers in ("offer_2", "offer", "offer_earlier_runs"):
            caller.call(offers, [])
    yield {"private": private, "shown": shown}
    for run in page.store.list():
        shutil.rmtree(run.dir)


def none_like(run_id):
    """The id of a run that is not there, as like to it as may be."""
    return run_id.replace("hidden", "hiddex")


def plain(answer, run_id):
    """An answer without what it was asked for, and what changes from call to call."""
    answer = answer.replace(run_id, "ID").replace(run_id.split("-", 2)[-1], "NAME")
    return re.sub(r'"(duration|average_duration)":[\d.e-]+', "", answer)


def test_the_table_has_a_line_for_every_handler_and_every_route(people):
    assert set(people["ann"].handlers) == set(HANDLERS)
    store, access = RunStore("/nowhere"), Everyone()
    ours = [*routes(store, access), *export_routes(Exports(store.root), store, access)]
    assert {route.path for route in ours if isinstance(route, Route)} == {
        "/tuner/runs",
        "/tuner/compare",
        "/tuner/runs/{run_id}/live",
        "/tuner/runs/{run_id}/files/{name}",
        "/tuner/exports/{run_id}/{key}",
    }


@pytest.mark.parametrize("who", STRANGERS)
def test_anothers_run_answers_every_handler_like_one_that_is_not_there(runs, people, page, who):
    private, caller = runs["private"].id, people[who]
    before = private_files(runs)
    for name in names(Sees) + names(Changes):
        found = of_stranger(caller, name, private)
        assert found == of_stranger(caller, name, none_like(private)), name
        assert SECRET not in found and NOT_YOURS not in found
    for name in ("run_status", "again"):  # by its name, and by the beginning of its id
        assert NO_RUN in caller.call(name, filled(name, "hidden"))
        assert private not in caller.call(name, filled(name, private[:14]))
    assert private_files(runs) == before


def of_stranger(caller, name, run_id):
    caller.new_tab()
    caller.call("open_run_1", [run_id])  # Publish's menu takes what it offers only
    return plain(caller.call(name, filled(name, run_id)), run_id)


def private_files(runs):
    return {path: path.read_bytes() for path in runs["private"].dir.rglob("*") if path.is_file()}


@pytest.mark.parametrize("who", STRANGERS)
def test_a_run_that_is_shown_can_be_looked_at_and_not_changed(runs, people, who):
    shown, caller = runs["shown"], people[who]
    before = shown.status_path.read_bytes()
    for name in names(Sees):
        assert NO_RUN not in caller.call(name, filled(name, shown.id)), name
    for name in names(Changes):
        answer = caller.call(name, filled(name, shown.id))
        # Publish's menus do not hold it at all.
        refused = NOT_YOURS in answer or "not in the list of choices" in answer
        assert refused or name in SAY_LITTLE, (name, answer)
        assert "is not yours" not in answer or SECRET not in answer
    assert shown.status_path.read_bytes() == before


@pytest.mark.parametrize("who", ["ann", "bob"])
def test_who_owns_the_page_or_the_run_may_do_all_with_it(runs, people, who):
    private, caller = runs["private"].id, people[who]
    for name in [*names(Sees), *names(Changes)]:
        if name in ("delete", "merged"):  # a merge takes a process with torch half a minute
            continue
        answer = caller.call(name, filled(name, private))
        assert NO_RUN not in answer and NOT_YOURS not in answer, (name, answer)
    caller.call("delete", [private])
    assert not runs["private"].dir.exists()


@pytest.mark.parametrize("who", PEOPLE)
def test_lists_hold_what_one_may_see(runs, people, who):
    private, shown = runs["private"].id, runs["shown"].id
    for name in names(Lists):
        answer = people[who].call(name, filled(name, ""))
        theirs = who not in STRANGERS
        assert (private in answer) == theirs, name
        assert (shown in answer) == (theirs or not HANDLERS[name].mine_only), name


@pytest.mark.parametrize("who", PEOPLE)
def test_routes_answer_of_what_one_may_see(runs, people, who):
    private, shown, caller = runs["private"].id, runs["shown"].id, people[who]
    theirs = who not in STRANGERS
    time.sleep(LIST_SECONDS)  # what a list may be old
    listed = {line["run"] for line in caller.get("tuner/runs").json()}
    assert listed == ({private, shown} if theirs else {shown})
    for part in ("live", "files/recipe.yaml"):
        answer, none = (
            caller.get(f"tuner/runs/{run_id}/{part}") for run_id in (private, none_like(private))
        )
        assert answer.status_code == (200 if theirs else 404)
        assert theirs or plain(answer.text, private) == plain(none.text, none_like(private))
    assert caller.get(f"tuner/runs/{shown}/live").json()["may_change"] is theirs
    compared = caller.get("tuner/compare", run=[private, shown])
    assert compared.status_code == (200 if theirs else 404)
    folder = Exports(runs["private"].dir.parent).place(runs["private"])
    (folder / "script.py").write_text("print()")
    exported = caller.get(f"tuner/exports/{private}/{folder.name}")
    assert exported.status_code == (200 if theirs else 404)
    assert caller.get(f"tuner/exports/{shown}/{folder.name}").status_code == 404


@pytest.mark.parametrize("who", PEOPLE)
def test_no_file_of_a_run_or_an_upload_is_served_by_gradio(runs, people, page, who):
    run = runs["private"]
    for path in (run.recipe_path, run.recipe().dataset.source, page.store.root):
        answer = people[who].get(f"gradio_api/file={path}")
        assert answer.status_code in (403, 404) and SECRET not in answer.text


def sources(runs):
    """What a recipe could name to get at bob's data."""
    run = runs["private"]
    upload = run.recipe().dataset.source
    other = f"{run.dir.parent}/x/../.uploads/{upload.rsplit('/', 2)[-2]}"
    return [upload, str(run.recipe_path), str(run.dir.parent), upload.rsplit("/", 1)[0], other]


@pytest.mark.parametrize("who", STRANGERS)
def test_a_recipe_reads_nothing_of_others_and_nothing_of_the_machine(runs, people, page, who):
    begun = len(page.store.ids())
    named = [*sources(runs), "/etc/passwd", "../../etc/passwd", "~/.ssh/id_rsa", "/no/such/file"]
    for name in set(names(Reads)) - {"choose_base_model", "open_base"}:
        told = set()
        for source in named:
            recipe = f"dataset: {{source: {json.dumps(source)}}}"
            answer = people[who].call(name, filled(name, recipe))
            assert SECRET not in answer and "root:" not in answer, name
            told.add(answer.replace(json.dumps(source)[1:-1], "PATH"))
        # What is there and what is not get the same answer, but for the name itself.
        assert len({plain(one, "PATH").count("cannot be read") > 0 for one in told}) == 1
    assert len(page.store.ids()) == begun


@pytest.mark.parametrize("who", STRANGERS)
@pytest.mark.parametrize("name", ["choose_base_model", "open_base", "follow", "estimate"])
def test_a_base_model_is_no_folder_of_the_machine(runs, people, who, name):
    folder = str(runs["private"].adapter_dir)
    given = folder if name in ("choose_base_model", "open_base") else f"base_model: {folder}"
    answer = people[who].call(name, filled(name, given))
    none = people[who].call(name, filled(name, given.replace("hidden", "hiddex")))
    assert plain(answer, folder) == plain(none, folder.replace("hidden", "hiddex"))


def test_ones_own_upload_is_read(runs, people):
    recipe = runs["private"].recipe_path.read_text()
    for who in ("ann", "bob"):
        assert '"rows": 1, ' in people[who].call("preview_dataset", [recipe, None])


def test_samples_are_looked_at_by_everybody(people):
    for who in PEOPLE:
        answer = people[who].call("follow", [None, first_draft(), None])
        assert "cannot be read" not in answer and "cannot be looked up" not in answer


def test_who_may_not_train_keeps_no_upload_and_starts_nothing(people, page, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "answer": "Hello"}))
    visitor, kept = people["visitor"], page.store.root / ".uploads"
    before = sorted(kept.rglob("*"))
    with path.open("rb") as file:
        (given,) = visitor.client.post("gradio_api/upload", files={"files": file}).json()
    uploaded = {"path": given, "meta": {"_type": "gradio.FileData"}}
    for name, data in (
        ("take_files", [None, "", [uploaded], "files"]),
        ("start", [None, first_draft(), "bot"]),
        ("start_run", [first_draft(), None]),
        ("start_run", ["", uploaded]),
        ("pull_run", ["bob/bot", None]),
    ):
        assert "only its owner trains" in visitor.call(name, data), name
    assert (sorted(kept.rglob("*")), page.store.list()) == (before, [])


def test_a_run_belongs_to_who_started_it(people, page):
    for who in ("ann", "carl"):
        answer = people[who].call("start", [None, first_draft(), f"of-{who}"])
        run = page.store.get(f"of-{who}")
        assert run.id in answer and run.status()["owner"] == who
        people[who].call("stop", [run.id])
        run.dir.exists() and shutil.rmtree(run.dir)


def test_a_run_that_is_shown_shows_no_data(runs, people):
    for run in runs.values():
        run.data_dir.mkdir()
        row = {
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": SECRET}]
        }
        (run.data_dir / "eval.jsonl").write_text(json.dumps(row))
    for who in STRANGERS:
        for run in runs.values():
            assert SECRET not in people[who].call("take_held_out", [run.id])


def test_only_the_owner_takes_the_model_out_of_memory(people):
    for who in PEOPLE:
        refused = "Only who runs this page" in people[who].call("unload", [])
        assert refused == (who != "ann")


def test_bob_shows_his_run_and_hides_it_again(runs, people):
    private, carl = runs["private"].id, people["carl"]
    people["bob"].call("publicize", [private])
    assert private in carl.call("run_status", [private])
    people["bob"].call("hide", [private])
    assert NO_RUN in carl.call("run_status", [private])


def test_a_cookie_that_this_space_did_not_sign_is_nobodys(runs, page):
    for secret in ("", "of another Space"):
        forged = Caller(page, cookie_of(session_of("ann"), secret))
        assert NO_RUN in forged.call("run_status", [runs["private"].id])
        forged.close()


def test_another_site_does_nothing_with_the_owners_cookie(runs, page):
    cookie = cookie_of(session_of("ann"), OAUTH_SECRET)
    elsewhere = Caller(page, cookie, Origin="https://evil.example")
    elsewhere.call("delete", [runs["private"].id])
    assert runs["private"].dir.is_dir()
    elsewhere.close()
