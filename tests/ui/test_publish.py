"""
The Publish tab in a real browser, against a Hub on this machine. Its run is written, not trained.

    make test ARGS="tests/ui/test_publish.py"
"""

import io
import json
import re
import shutil
import time
import zipfile

import numpy
import psutil
import pytest
from playwright.sync_api import expect
from safetensors.numpy import save_file

from tests.export.prepared_runs import prepared_run
from tests.small_hub import small_hub
from tests.ui.browser import DESKTOP, NOT_REACHED, PHONE, chromium, until, visiting
from tests.ui.page_measures import faint_texts, nameless_controls, too_wide
from tests.ui.pages import Page
from tests.ui.telling import metric
from tuner.runs.events import EventWriter
from tuner.starter import STARTER_DIR

TOKEN, READ_TOKEN = "hf_" + "a1" * 17, "hf_" + "r1" * 17
REPO, BOX = "#tuner-repo textarea", "#tuner-token input"
SAID, FACTS, CARD = "#tuner-publish-said", "#tuner-target-facts", "#tuner-card-shown"
SOURCE = "#tuner-card-source textarea"
OWN_IMAGE = re.compile("^data:image/png;base64,")
KEPT = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"


@pytest.fixture(scope="module")
def browser():
    with chromium(keeps_files=True) as browser:
        yield browser


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with small_hub(tmp_path_factory.mktemp("hub")) as hub:
        hub.add_user("ann", TOKEN)
        hub.add_user("reader", READ_TOKEN, role="read")
        yield hub


@pytest.fixture(scope="module")
def page(browser, hub, tmp_path_factory):
    with Page(tmp_path_factory.mktemp("publish") / "runs", **hub.environment) as page:
        yield page


@pytest.fixture(scope="module")
def run(page):
    return written_run(page.store, "support bot")


@pytest.fixture(scope="module")
def visitor(browser, page, run):
    with visiting(browser, page.url) as visitor:
        visitor.open(f"?run={run.id}")
        yield visitor


@pytest.fixture
def visit(visitor, hub):
    """The tab as it is for who comes from the run."""
    hub.reset()
    visitor.show("Fine-tune")
    come_from_the_run(visitor)
    return visitor


def written_run(store, name):
    """A run with an adapter, as a training on the built-in model would have left it."""
    run = prepared_run(store.root.parent, "starter", name=name, preset="chatbot")
    with EventWriter(run.events_path) as events:
        events.write("eval", step=0, eval_loss=4.0)
        for step in range(1, 31):
            metric(events, step, max_steps=30)
        for step in (0, 30):
            events.write("sample", step=step, index=0, prompt="Hello?", text=f"Answer at {step}.")
    run.adapter_dir.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(STARTER_DIR / name, run.adapter_dir)
    config = {
        "peft_type": "LORA",
        "r": 4,
        "base_model_name_or_path": str(store.root),
        "bias": "none",
    }
    (run.adapter_dir / "adapter_config.json").write_text(json.dumps(config))
    weights = {"base_model.model.q_proj.lora_A.weight": numpy.ones((4, 8), dtype="float32")}
    save_file(weights, run.adapter_dir / "adapter_model.safetensors")
    now = time.time()
    run.write_result({"eval_loss": 1.5, "base_eval_loss": 4.0, "steps": 30})
    run.update_status(
        state="completed", step=30, max_steps=30, started=now - 60, finished=now, waiting_since=None
    )
    return run


def come_from_the_run(visit, repo="your-name/support-bot"):
    """Press the run's button, and wait for its card and what is suggested."""
    visit.find("#tuner-publish").click()
    expect(visit.find(f"{CARD} h1").first).to_be_visible()
    expect(visit.find(REPO)).to_have_value(repo)


def aim(visit, repo, token=TOKEN):
    """Give a repository and a token, and wait for what the Hub says of them."""
    visit.write(REPO, repo)
    visit.write(BOX, token)
    visit.tab.keyboard.press("Tab")
    expect(visit.find(f"{FACTS} p").first).to_be_visible()


def publish(visit):
    visit.find("#tuner-publish-now").click()


def uploads(page):
    """The processes that upload."""
    children = psutil.Process(page.pid).children(recursive=True)
    return [child for child in children if "tuner.hub.upload" in child.cmdline()]


def test_a_private_push_is_told_to_its_end_and_a_repeat_changes_nothing(visit, hub, run, page):
    aim(visit, "ann/support-bot")
    expect(visit.find(FACTS)).to_contain_text("A new private repository will be made")
    assert "ann/support-bot" not in hub.repos  # asked, not made
    publish(visit)
    expect(visit.find(f"{SAID} a")).to_have_attribute("href", f"{hub.url}/ann/support-bot")
    repo = hub.repos["ann/support-bot"]
    assert repo.private and len(repo.branches["main"]) == 2
    expect(visit.find(SAID)).to_contain_text(f"Commit {repo.at().oid[:12]}")
    sent = repo.contents()
    weights = (run.adapter_dir / "adapter_model.safetensors").read_bytes()
    assert sent["adapter_model.safetensors"] == weights
    assert b"ann/support-bot" in sent["README.md"] and b"your-name" not in sent["README.md"]

    expect(visit.find(BOX)).to_have_value("")  # emptied, and kept nowhere
    visit.write(BOX, TOKEN)
    publish(visit)
    expect(visit.find(SAID)).to_contain_text("Nothing had changed")
    assert len(repo.branches["main"]) == 2
    kept = visit.tab.evaluate(KEPT) + visit.tab.content() + page.said()
    files = b"".join(path.read_bytes() for path in run.dir.rglob("*") if path.is_file())
    assert TOKEN not in kept and TOKEN.encode() not in files
    assert not any(TOKEN in address for address in visit.requested)


def test_a_wrong_token_and_a_bad_name_are_sentences_and_nothing_typed_is_lost(visit, hub):
    visit.write(REPO, "support bot")
    expect(visit.find("#tuner-repo-problem")).to_contain_text("has no owner")
    publish(visit)
    expect(visit.find(SAID)).to_contain_text("has no owner")
    aim(visit, "reader/bot", READ_TOKEN)
    expect(visit.find(FACTS)).to_contain_text("may only read")
    aim(visit, "ann/bot", "hf_" + "z9" * 17)
    expect(visit.find(FACTS)).to_contain_text("does not know this token")
    publish(visit)
    expect(visit.find(SAID)).to_contain_text("does not know this token")
    expect(visit.find(REPO)).to_have_value("ann/bot")
    expect(visit.find(BOX)).to_have_value("hf_" + "z9" * 17)
    expect(visit.find("#tuner-publish-now")).to_be_enabled()
    assert hub.repos == {}


def test_a_repository_that_exists_is_published_into_only_by_its_name(visit, hub):
    theirs = hub.add_repo("ann/taken", {"README.md": b"theirs"})
    aim(visit, "ann/taken")
    expect(visit.find(FACTS)).to_contain_text("exists already")
    publish(visit)
    expect(visit.find(SAID)).to_contain_text("ann/taken exists")
    assert theirs.contents()["README.md"] == b"theirs"
    visit.write("#tuner-confirm textarea", "ann/taken")
    publish(visit)
    expect(visit.find(f"{SAID} a")).to_be_visible()
    assert theirs.contents()["README.md"] != b"theirs"


def test_a_card_is_edited_kept_and_published_and_runs_no_script(visit, hub):
    visit.find("#tuner-card-view").get_by_label("Source").check()
    track = f"{hub.url}/track"
    visit.find(SOURCE).click()
    visit.tab.keyboard.press("Control+End")
    visit.tab.keyboard.insert_text(
        f"\n\nMy own words.\n\n<script>window.hacked = 1</script>"
        f'<img src="{track}" onerror="window.hacked = 1">\n\n![seen]({track})\n'
    )
    aim(visit, "ann/edited")
    visit.find("#tuner-card-view").get_by_label("As it will look").check()
    expect(visit.find(CARD)).to_contain_text("My own words.")
    expect(visit.find(f"{CARD} img").first).to_have_attribute("src", OWN_IMAGE)
    publish(visit)
    expect(visit.find(f"{SAID} a")).to_be_visible()
    card = hub.repos["ann/edited"].contents()["README.md"].decode()
    assert "My own words." in card and "ann/edited" in card and "your-name" not in card
    assert visit.tab.evaluate("window.hacked") is None
    assert hub.asked("GET", "/track") == []
    visit.forgive("Content Security Policy", NOT_REACHED)


def test_a_push_that_is_cancelled_ends_its_process_and_commits_nothing(visit, hub, page):
    aim(visit, "ann/slow")
    hub.fail("POST", "/commit/", seconds=30)
    publish(visit)
    until(lambda: uploads(page))
    until(lambda: hub.asked("POST", "/commit/"))
    visit.find("#tuner-publish-cancel").click()
    expect(visit.find(SAID)).to_contain_text("Cancelled")
    until(lambda: not uploads(page))
    expect(visit.find("#tuner-publish-now")).to_be_enabled()
    assert list(hub.repos["ann/slow"].contents()) == [".gitattributes"]


def test_the_machines_own_login_is_suggested_and_needs_no_token(browser, page, hub, run):
    hub.reset()
    login = hub.folder / "hf_home" / "token"
    login.parent.mkdir(exist_ok=True)
    login.write_text(TOKEN)
    try:
        with visiting(browser, page.url) as visit:
            visit.open(f"?run={run.id}")
            come_from_the_run(visit, "ann/support-bot")
            expect(visit.find(CARD)).to_contain_text("ann/support-bot")
            expect(visit.find(FACTS)).to_contain_text("ann may write")
            publish(visit)
            expect(visit.find(f"{SAID} a")).to_be_visible()
    finally:
        login.unlink()


def test_script_notebook_and_adapter_are_saved_without_the_hub(visit, hub):
    script = zipfile.ZipFile(io.BytesIO(visit.download(visit.find("#tuner-script"))))
    assert any(name.endswith("/train.py") for name in script.namelist())
    notebook = json.loads(visit.download(visit.find("#tuner-notebook")))
    assert notebook["nbformat"] == 4
    adapter = zipfile.ZipFile(io.BytesIO(visit.download(visit.find("#tuner-zip-link a"))))
    assert "adapter/adapter_model.safetensors" in adapter.namelist()
    assert hub.requests == []


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "dark"), (PHONE, "light")])
def test_everything_in_the_tab_has_a_name_and_contrast_and_fits(browser, page, run, size, scheme):
    with visiting(browser, page.url, size, scheme) as visit:
        visit.open(f"?run={run.id}")
        come_from_the_run(visit)
        assert nameless_controls(visit.tab) == []
        assert faint_texts(visit.tab) == []
        assert too_wide(visit.tab) == []
