"""The Publish tab without a browser: names, the card, progress, results, exports."""

import io
import os
import time
import zipfile
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tuner.errors import HubError
from tuner.hub.identity import Person, Role
from tuner.hub.target import Target, TargetFacts
from tuner.ui import publish_card
from tuner.ui import publish_view as view
from tuner.ui.access import Everyone
from tuner.ui.publish_exports import ExportEvents
from tuner.ui.publish_files import KEPT_SECONDS, Exports, export_routes
from tuner.ui.publish_steps import one_merge

RUN = "20261123-0915-support-bot"
CARD = """---
license: apache-2.0
base_model: mistralai/Mistral-7B-Instruct-v0.3
tags: [lora, "<b>bold</b>"]
---
# Support bot

![loss](loss.png) ![seen](https://tracker.example/x.png "a title")

    model = PeftModel.from_pretrained(base, "ann/support-bot")
"""


@pytest.mark.parametrize(
    ("user", "run_id", "repo"),
    [
        ("ann", RUN, "ann/support-bot"),
        (None, RUN, "your-name/support-bot"),
        ("ann", "20261123-0915-Ärzte_é", "ann/Arzte-e"),
        ("ann", "20261123-0915-日本語", "ann/adapter"),
        ("ann", "20261123-0915-a-_-b", "ann/a-b"),
        ("a" * 60, "20261123-0915-" + "b" * 60, "a" * 60 + "/" + "b" * 35),
    ],
)
def test_a_suggested_name_is_one_that_the_hub_takes(user, run_id, repo):
    assert view.suggested_repo(user, run_id) == repo
    if user:
        assert view.place_problems(repo, "") == []


def test_a_suggestion_without_a_person_asks_for_their_name():
    assert "Put your name" in view.place_problems(view.suggested_repo(None, RUN), "")[0]


def test_a_bad_name_and_a_bad_branch_are_both_told():
    assert len(view.place_problems("no owner", "../main")) == 2


# The card.


def test_the_front_matter_is_shown_as_facts_and_never_as_html():
    shown = publish_card.card_html(CARD)
    assert "mistralai/Mistral-7B-Instruct-v0.3" in shown and "apache-2.0" in shown
    assert "<b>bold" not in shown and "&lt;b&gt;bold" in shown
    assert publish_card.card_html("# no front matter") == ""


def test_a_preview_holds_its_own_image_and_links_to_others():
    shown = publish_card.card_markdown(CARD, {"loss.png": b"\x89PNG"})
    assert "![loss](data:image/png;base64,iVBORw==)" in shown
    assert "[seen](https://tracker.example/x.png)" in shown and "![seen]" not in shown
    assert "license:" not in shown


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (CARD, None),
        ("# none", None),
        ("---\n---\n# empty", None),
        ("---\na: [1\n---\n", "not valid YAML at line"),
        ("---\na: " + "[" * 5000 + "\n---\n", "not valid YAML"),
        ("---\na: !!timestamp x\n---\n", "not valid YAML at line 2"),
        ("---\n- a\n---\n", "must be keys and values"),
        ("---\na: 1\n# never closed", "does not end"),
    ],
)
def test_a_card_that_the_hub_could_not_read_is_told_before_it_is_sent(card, words):
    problems = publish_card.card_problems(card)
    assert (words is None and problems == []) or words in problems[0]


def test_another_repository_is_named_wherever_the_first_one_stood_for_itself():
    card = "ann/bot, `ann/bot`; hub/ann/bot ann/bot-2 xann/bot ann/bot.py ann/bot."
    changed = publish_card.retargeted(card, "ann/bot", r"org/\1new")
    assert changed == (
        r"org/\1new, `org/\1new`; hub/ann/bot ann/bot-2 xann/bot ann/bot.py org/\1new."
    )


# As whom, and what the Hub says.


@pytest.mark.parametrize(
    ("here", "in_space", "has_login", "words", "asks"),
    [
        (Person(Role.OWNER, "ann", "hf_x"), True, False, "as ann", False),
        (Person(Role.VISITOR, None, None), True, False, "Sign in", False),
        # On a Space the machine's own token is the Space's, and nobody's login.
        (Person(Role.VISITOR, None, None), True, True, "Sign in", False),
        (Person(Role.OWNER, None, None), False, True, "this machine's own login", True),
        (Person(Role.OWNER, None, None), False, False, "the token that you paste", True),
        (Person(Role.VISITOR, None, None), False, True, "the token that you paste", True),
    ],
)
def test_it_is_said_as_whom_it_would_be_published(here, in_space, has_login, words, asks):
    said, asked = view.whom_words(here, in_space=in_space, has_login=has_login)
    assert words in said and asked is asks
    assert "hf_x" not in said


def facts(**changes):
    known = {"user": "ann", "exists": True, "private": True, "url": "", "needs_yes": False}
    return TargetFacts(**(known | changes))


def test_the_facts_say_what_would_be_made_and_what_needs_a_name():
    target = Target("ann/bot")
    assert "new private repository" in view.facts_html(facts(exists=False), target)
    assert "type its name" in view.facts_html(facts(needs_yes=True), target)
    assert "type its name" not in view.facts_html(facts(), target)


# Progress and results.


def progress(stage, done):
    return {"kind": "progress", "stage": stage, "done_bytes": done, "total_bytes": 100}


def test_every_stage_and_the_last_step_are_shown_however_fast_they_come():
    steps = [progress("hash", 1), progress("hash", 2), progress("send", 3), progress("send", 100)]
    pushed = {"kind": "pushed"}
    shown = list(view.now_and_then([*steps, pushed]))
    assert shown == [steps[0], steps[2], pushed]
    assert list(view.now_and_then(steps))[-1] == steps[-1]


def test_progress_is_told_in_bytes_and_never_beyond_the_whole():
    shown = view.progress_html(
        {"stage": "Sending <x>", "done_bytes": 3_400_000, "total_bytes": 1_700_000}
    )
    assert "3.4 MB of 1.7 MB" in shown and "width: 100.0%" in shown
    assert "<x>" not in shown
    assert "0 of 0" not in view.progress_html({"stage": "a", "done_bytes": 0, "total_bytes": 0})


def pushed(**changes):
    url, commit = "https://hub.example/ann/bot", "0123456789abcdef"
    known = {"kind": "pushed", "url": url, "commit": commit, "files": 1, "bytes": 5}
    return {**known, "unchanged": False, **changes}


def test_a_result_has_link_commit_and_whether_anything_changed():
    shown = view.pushed_html(pushed(), private=True)
    assert 'href="https://hub.example/ann/bot"' in shown and "0123456789ab" in shown
    assert "1 file, 5 bytes" in shown and "Private" in shown
    assert "Nothing had changed" in view.pushed_html(pushed(unchanged=True), private=False)


def test_a_server_cannot_answer_with_a_link_that_is_a_script():
    assert 'href="#"' in view.pushed_html(pushed(url="javascript:alert(1)"), private=True)


def test_every_problem_is_a_sentence_of_its_own():
    shown = view.problems_html(HubError(["One <b>.", "Two."]))
    assert shown.count("tuner-problem") == 2 and "<b>" not in shown
    assert "No space left" in view.problems_html(OSError(28, "No space left on device", "/a/path"))
    assert "/a/path" not in view.problems_html(OSError(28, "No space left on device", "/a/path"))


def test_contents_are_listed_with_their_sizes():
    shown = view.contents_html([("a.safetensors", 1_500_000), ("README.md", None)])
    assert "1.5 MB" in shown and "made when sent" in shown and "2 files" in shown


# Exports.


class Nobody(Everyone):
    def may_see(self, request, run):
        return False


@pytest.fixture
def exports(store):
    return Exports(store.root)


def asked(exports, store, address, access=None):
    app = Starlette(routes=export_routes(exports, store, access or Everyone()))
    with TestClient(app) as page:
        return page.get("/" + address)


def test_a_folder_comes_as_a_zip_and_a_file_as_itself(run, store, exports):
    place = exports.place(run)
    (place / "bot-script").mkdir()
    (place / "bot-script" / "train.py").write_text("print()")
    answer = asked(exports, store, exports.address(place))
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == ["bot-script/train.py"]
    assert "bot-script.zip" in answer.headers["content-disposition"]
    other = exports.place(run)
    (other / "bot.ipynb").write_text("{}")
    answer = asked(exports, store, exports.address(other))
    assert (answer.text, answer.headers["x-content-type-options"]) == ("{}", "nosniff")


def test_an_export_of_a_run_that_may_not_be_seen_does_not_exist(run, store, exports):
    place = exports.place(run)
    (place / "bot.ipynb").write_text("secret")
    answer = asked(exports, store, exports.address(place), Nobody())
    assert answer.status_code == 404 and "secret" not in answer.text


@pytest.mark.parametrize("key", ["..", "%2e%2e", "x" * 32, "0" * 31, "0" * 32, "..%2f..", ""])
def test_a_guessed_export_does_not_exist(run, store, exports, key):
    exports.drop(exports.place(run))
    assert asked(exports, store, f"tuner/exports/{run.id}/{key}").status_code == 404


def test_another_runs_export_is_not_found_under_this_one(run, store, exports, recipe):
    other = store.create(recipe, "other")
    place = exports.place(other)
    (place / "a").write_text("a")
    assert asked(exports, store, f"tuner/exports/{run.id}/{place.name}").status_code == 404


@pytest.fixture
def making(run, store):
    """Lets a function fill an export's folder, as a click on a button does."""
    tab = SimpleNamespace(export_said="said", address="address", cancel_export="cancel")
    events = ExportEvents(tab, SimpleNamespace(store=store, access=Everyone()))
    return lambda fill: events._export(run.id, SimpleNamespace(request=None), fill)


def test_a_finished_export_is_told_with_its_address(making, store, exports):
    def fill(run, folder):
        yield progress("merge", 1)
        (folder / "a.txt").write_text("done")

    first, last = making(fill)
    assert first["address"] == "" and "merge" in first["said"]
    assert asked(exports, store, last["address"]).text == "done"


@pytest.mark.parametrize("error", [HubError("No room."), OSError(28, "No room.")])
def test_an_export_that_fails_is_a_sentence_and_leaves_nothing(making, exports, error):
    def fill(run, folder):
        (folder / "half.txt").write_text("half")
        yield progress("merge", 1)
        raise error

    *_, last = making(fill)
    assert "No room." in last["said"] and last["address"] == ""
    assert list(exports.root.iterdir()) == []


def test_an_export_that_is_cancelled_ends_its_work_and_leaves_nothing(making, exports):
    ended = []

    def fill(run, folder):
        try:
            yield progress("merge", 1)
        finally:
            ended.append(run.id)

    steps = making(fill)
    next(steps)
    steps.close()
    assert ended and list(exports.root.iterdir()) == []


def test_weights_are_merged_for_one_at_a_time():
    def merging():
        yield "at work"

    first, second = one_merge(merging()), one_merge(merging())
    assert next(first) == "at work"
    with pytest.raises(HubError, match="being merged already"):
        next(second)
    first.close()
    assert list(one_merge(merging())) == ["at work"]


def test_exports_go_after_some_hours(run, exports):
    old, new = exports.place(run), exports.place(run)
    past = time.time() - KEPT_SECONDS - 60
    os.utime(old, (past, past))
    exports.remove_old()
    assert (old.exists(), new.exists()) == (False, True)
