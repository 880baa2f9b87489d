"""
Signing in on a Space in a real browser, through a real OpenID flow at the small Hub: two people and
a visitor, and a run that one of them makes, shows and hides.

A Space is https, and Gradio sends people back to https://<SPACE_HOST>; here SPACE_HOST is not set,
so that it takes the address that was asked for. Its cookie is for https alone, which Chromium also
grants to 127.0.0.1.
"""

from contextlib import ExitStack

import pytest
from playwright.sync_api import expect

from tests.small_hub import small_hub
from tests.small_hub.openid import Provider
from tests.ui.browser import NOT_REACHED, chromium, visiting
from tests.ui.pages import Page
from tuner.recipe import make_recipe

CLIENT, CLIENT_SECRET = "app-of-the-space", "known to Hub and Space"
TOKENS = {name: f"hf_{name}sTokenAtTheSmallHub" for name in ("ann", "bob", "carl")}
# Gradio's own script looks the Space up at huggingface.co, which the page's policy refuses.
LOOKED_UP = ("huggingface.co/api/spaces", "Space not found")
SIGN_IN, BUTTONS = "#tuner-sign-in", "#tuner-run-actions button:visible"


@pytest.fixture(scope="module")
def provider():
    return Provider(CLIENT, CLIENT_SECRET)


@pytest.fixture(scope="module")
def hub(provider, tmp_path_factory):
    with small_hub(tmp_path_factory.mktemp("hub"), provider.routes) as hub:
        for name, token in TOKENS.items():
            hub.add_user(name, token)
        yield hub


@pytest.fixture(scope="module")
def page(hub, provider, tmp_path_factory):
    space = {
        "SYSTEM": "spaces",
        "SPACE_ID": "ann/tuner",
        "SPACE_AUTHOR_NAME": "ann",
        "SPACE_CREATOR_USER_ID": "id-of-ann",
        "OAUTH_CLIENT_ID": CLIENT,
        "OAUTH_CLIENT_SECRET": CLIENT_SECRET,
        "OAUTH_SCOPES": "openid profile contribute-repos",
        "OPENID_PROVIDER_URL": hub.url,
    }
    runs = tmp_path_factory.mktemp("space") / "runs"
    with Page(runs, "--host", "127.0.0.1", **space, **hub.environment) as page:
        provider.hosts.add(f"127.0.0.1:{page.port}")
        yield page


@pytest.fixture(scope="module")
def browser():
    with chromium(keeps_files=True) as browser:
        yield browser


@pytest.fixture
def tab(browser, page):
    """Opens a tab of somebody who has never been here."""
    with ExitStack() as stack:
        opened = []

        def open_tab():
            opened.append(stack.enter_context(visiting(browser, page.url)))
            return opened[-1]

        yield open_tab
        for visit in opened:
            visit.forgive(*LOOKED_UP, NOT_REACHED)


@pytest.fixture
def run(page):
    return page.store.create(make_recipe({"dataset": {"source": "rows.csv"}}), "bot", owner="bob")


def sign_in(visit, name):
    visit.open()
    visit.find(SIGN_IN).click()
    visit.find(f"a:text-is('{name}')").click()
    expect(visit.find(SIGN_IN)).to_contain_text(f"Sign out {name}")


def sees(visit, run):
    """Whether the run is shown, rather than told not to be there."""
    visit.open(f"?run={run.id}")
    shown = visit.find("tuner-run .tuner-state-word:visible")
    none = visit.find(f"tuner-run [role=alert]:has-text(\"There is no run '{run.id}'\")")
    expect(shown.or_(none)).to_be_visible()
    return shown.is_visible()


def test_two_people_and_a_visitor_each_see_what_is_theirs(tab, run, provider):
    bob, carl, visitor = tab(), tab(), tab()
    sign_in(bob, "bob")
    sign_in(carl, "carl")
    visitor.open()
    expect(visitor.find("#tuner-space")).to_contain_text("Duplicate this Space")
    assert [sees(who, run) for who in (bob, carl, visitor)] == [True, False, False]
    assert "contribute-repos" in provider.authorized[0]["scope"]

    bob.find("#tuner-publicize").click()
    expect(bob.find("#tuner-hide")).to_be_visible()
    for who in (carl, visitor):
        assert sees(who, run)
        names = {button.inner_text() for button in who.find(BUTTONS).all()}
        assert names == {"‹ New fine-tune", "Start again with changes"}

    bob.find("#tuner-hide").click()
    expect(bob.find("#tuner-publicize")).to_be_visible()
    assert [sees(who, run) for who in (bob, carl, visitor)] == [True, False, False]


def test_the_owner_sees_all_runs_and_others_may_not_train(tab, run):
    ann, carl = tab(), tab()
    sign_in(ann, "ann")
    assert sees(ann, run)
    sign_in(carl, "carl")
    carl.is_ready()
    carl.find("#tuner-start").click()
    expect(carl.find("#tuner-columns")).to_contain_text("only its owner trains")


def test_who_signs_out_is_a_visitor(tab, run):
    bob = tab()
    sign_in(bob, "bob")
    assert sees(bob, run)
    bob.open()
    expect(bob.find(SIGN_IN)).to_contain_text("Sign out")
    bob.find(SIGN_IN).click()
    expect(bob.find(SIGN_IN)).to_have_text("Sign in")
    assert not sees(bob, run)


def test_a_sign_in_that_has_expired_is_none(tab, run, provider, monkeypatch):
    monkeypatch.setattr(provider, "expires_seconds", -1)
    bob = tab()
    bob.open()
    bob.find(SIGN_IN).click()
    bob.find("a:text-is('bob')").click()
    expect(bob.find(SIGN_IN)).to_have_text("Sign in")
    assert not sees(bob, run)


def test_tokens_are_in_no_file_of_the_page_and_nothing_that_it_said(page):
    written = [path for path in page.runs_dir.parent.rglob("*") if path.is_file()]
    assert page.log in written
    for path in written:
        content = path.read_bytes()
        assert not any(token.encode() in content for token in TOKENS.values()), path
