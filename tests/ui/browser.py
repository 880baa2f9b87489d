"""
Chromium on the real page: one for a module's tests, and what a person does in it, as verbs.

    with chromium() as browser, visiting(browser, page.url) as visit:
        visit.open()
        visit.write("#tuner-learning_rate textarea", "3e-4")
        visit.recipe()["learning_rate"]

Every wait is for something to appear, up to a minute or two: these tests share two cores with the
training that they start. Leaving a visit fails if the browser's console told of an error.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    expect,
    sync_playwright,
)
from playwright.sync_api import Page as Tab

WAIT_SECONDS = 120
WAIT_MS = 1000 * WAIT_SECONDS
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
DESKTOP, PHONE = (1280, 900), (390, 844)
NOT_REACHED = "Failed to load resource"  # what Chromium itself says of a request without an answer
# What Gradio says when a page is left while something was under way.
LEFT = ("AbortError: signal is aborted", "Unexpected error Connection errored out")
EDITED = "node => node.cmTile.view.state.doc.toString()"  # the editor draws only what is in sight
TRAIN_LINE = 'tuner-run .tuner-loss path.tuner-line[data-series="train"]'

expect.set_options(timeout=WAIT_MS)


def chromium_path() -> str | None:
    """Where Chromium is; TUNER_CHROMIUM names another than the usual."""
    return os.environ.get("TUNER_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium(keeps_files: bool = False) -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none.

    Args:
        keeps_files: One visitor after the other shares what it keeps of the page's own files, since
            fetching and compiling them is half the time of a visit.
    """
    path = chromium_path()
    if path is None:
        pytest.skip("NO BROWSER: the page is not tested. Install chromium, or set TUNER_CHROMIUM.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        if keeps_files:
            browser.new_context()
        yield browser
        browser.close()


@contextmanager
def visiting(
    browser: Browser, url: str, size: tuple[int, int] = DESKTOP, scheme: Any = "light"
) -> Iterator["Visit"]:
    """A visitor who has never been here; at the end, nothing must have gone wrong in the tab."""
    shared = next((kept for kept in browser.contexts if not kept.pages), None)
    context = shared or browser.new_context()
    try:
        visit = Visit(_new_tab(context, url, size, scheme), url)
        yield visit
        assert not visit.errors, "\n".join(visit.errors)
    finally:
        for tab in context.pages:
            tab.close()
        if not shared:
            context.close()


def _new_tab(context: BrowserContext, url: str, size: tuple[int, int], scheme: Any) -> Tab:
    """A tab that remembers nothing of this address: no draft, no sign-in, no theme."""
    tab = context.new_page()
    origin = {"origin": url.rstrip("/"), "storageTypes": "all"}
    context.new_cdp_session(tab).send("Storage.clearDataForOrigin", origin)
    context.clear_cookies()
    tab.set_viewport_size({"width": size[0], "height": size[1]})
    tab.emulate_media(color_scheme=scheme)
    return tab


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition that the browser cannot tell of; returns what it came to."""
    end = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, "It took too long."
        time.sleep(0.1)
    return found


class Visit:
    """One tab on the app.

    Attributes:
        errors: What its console told of, since it was made or since they were forgiven.
        requested: Every address that it asked for.
    """

    def __init__(self, tab: Tab, url: str):
        self.tab, self.url = tab, url
        self.errors: list[str] = []
        self.requested: list[str] = []
        tab.set_default_timeout(WAIT_MS)
        tab.on("console", self._said)
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("request", lambda request: self.requested.append(request.url))

    def open(self, query: str = "") -> None:
        """Go to the form, or to what the query names."""
        self.tab.goto(self.url + query)
        self.forgive(*LEFT)

    def reload(self) -> None:
        self.tab.reload()
        self.forgive(*LEFT)

    def open_form(self) -> None:
        """Go to the form and wait until it can be started."""
        self.open()
        self.is_ready()

    def find(self, selector: str, **more: Any) -> Locator:
        return self.tab.locator(selector, **more)

    def button(self, name: str) -> Locator:
        return self.tab.get_by_role("button", name=name)

    def is_ready(self) -> None:
        """Wait until everything is checked and Start can be pressed."""
        expect(self.find("#tuner-problems")).to_contain_text("checks passed")
        expect(self.find("#tuner-start")).to_be_enabled()

    def is_refused(self, words: str) -> None:
        """Wait until Start cannot be pressed, and the words beside it say why."""
        expect(self.find("#tuner-problems")).to_contain_text(words)
        expect(self.find("#tuner-start")).to_be_disabled()

    def write(self, selector: str, text: str) -> None:
        """Type over what a box holds. Gradio hears keys; it does not hear a value being set."""
        box = self.find(selector)
        box.click()
        box.press("Control+a")
        box.press_sequentially(text) if text else box.press("Delete")

    def set(self, **settings: Any) -> None:
        """Type settings into their boxes, and wait until the recipe has them."""
        self.open_settings()
        for key, value in settings.items():
            text = "\n".join(value) if isinstance(value, list) else str(value)
            self.write(f"#tuner-{key} textarea", text)
        until(lambda: all(self.recipe()[key] == value for key, value in settings.items()))
        self.is_ready()

    def open_settings(self) -> None:
        """Unfold all settings and the recipe."""
        if not self.find("#tuner-recipe").is_visible():
            self.button("All settings").click()

    def choose_data(self, kind: str) -> None:
        self.find("#tuner-data-kind").get_by_label(kind).check()

    def upload(self, path: Path) -> None:
        """Give a file in place of those that are there."""
        clear = self.find("#tuner-files button[aria-label=Clear]")
        self.find("#tuner-files input[type=file]").wait_for(state="attached")
        if clear.is_visible():
            clear.click()
            clear.wait_for(state="detached")
        self.find("#tuner-files input[type=file]").set_input_files(path)

    def map(self, role: str, column: str) -> None:
        """Choose a column for a role."""
        box = self.find("#tuner-mapping").get_by_label(f"{role} ←")
        box.click()
        options = self.find(f'[id="{box.get_attribute("aria-controls")}"]')
        options.get_by_role("option", name=column).click()
        box.press("Escape")
        options.wait_for(state="detached")

    def download(self, what: Locator) -> bytes:
        """What a click saves."""
        with self.tab.expect_download() as found:
            what.click()
        return found.value.path().read_bytes()

    def recipe_text(self) -> str:
        """What the editor holds; all settings have to be unfolded."""
        return str(self.find("#tuner-recipe .cm-content").evaluate(EDITED))

    def recipe(self) -> dict[str, Any]:
        """The recipe as it would be started."""
        return dict(yaml.safe_load(self.recipe_text()))

    def write_recipe(self, text: str) -> None:
        """Put another text into the editor, as a paste would."""
        self.find("#tuner-recipe .cm-content").click()
        self.tab.keyboard.press("Control+a")
        self.tab.keyboard.insert_text(text)

    def start(self) -> str:
        """Press Start; the id of the run that is then open."""
        self.find("#tuner-start").click()
        self.tab.wait_for_url("**/?run=*")
        return self.run()

    def run(self) -> str:
        """The id of the run in the address."""
        return urlsplit(self.tab.url).query.removeprefix("run=")

    def is_in_state(self, state: str) -> None:
        expect(self.find(f'tuner-run .tuner-state[data-state="{state}"]')).to_be_visible()

    def has_points(self, after: str = "") -> str:
        """Wait until the training curve has more than it had; returns its path."""
        self.find(TRAIN_LINE).wait_for(state="attached")
        return str(until(lambda: _longer(self.find(TRAIN_LINE).get_attribute("d"), after)))

    def show(self, tab: str) -> None:
        self.tab.get_by_role("tab", name=tab).click()

    def forgive(self, *words: str) -> None:
        """Forget errors with these words: the test brought them about."""
        self.errors = [error for error in self.errors if not any(map(error.__contains__, words))]

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)


def _longer(path: str | None, before: str) -> str:
    return path if path and "L" in path and path != before else ""
