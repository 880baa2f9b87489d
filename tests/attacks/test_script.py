"""
Script in everything that the page shows, in a real browser: rows, columns, file names, problems,
prompts, answers, warnings, names of runs. Nothing of it runs, nothing asks another host.

The card of the Publish tab is tried in ui/test_publish.py.
"""

import json
import re
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.ui.browser import NOT_REACHED, chromium, visiting

SETTLED_MS = 300  # for an image that cannot be loaded to say so
RAN = "() => window.__attacked ?? null"
# What of it would be there if it had been taken for HTML; forms and styles are held by the policy.
ELEMENTS = (
    "a[href^='javascript:' i], [onerror], [onload], [ontoggle], iframe[srcdoc], "
    "base[href^='TRAP'], link[href^='TRAP'], meta[http-equiv=refresh]"
)


@pytest.fixture(scope="module")
def browser():
    with chromium(keeps_files=True) as browser:
        yield browser


@contextmanager
def watched(browser, page, trap):
    """A visit at whose end nothing of what was shown has run, and nobody else was asked."""
    with visiting(browser, page.url) as visit:
        dialogs = []
        visit.tab.on("dialog", lambda dialog: dialogs.append(dialog) or dialog.dismiss())
        yield visit
        visit.tab.wait_for_timeout(SETTLED_MS)
        assert visit.tab.evaluate(RAN) is None
        assert (
            visit.find(ELEMENTS.replace("TRAP", trap.url)).evaluate_all(
                "all => all.map(one => one.outerHTML)"
            )
            == []
        )
        assert visit.tab.url.startswith(page.url)
        elsewhere = [
            url for url in visit.requested if not url.startswith((page.url, "data:", "blob:"))
        ]
        # The browser tells of a request that the page's policy forbids, though it is never sent.
        assert {url for url in elsewhere if not url.startswith(trap.url)} == set()
        assert trap.asked == []
        assert dialogs == []
        # An image without its onerror may be left: it asks the page itself, which has none.
        visit.forgive(NOT_REACHED, "Content Security Policy", "Content-Security-Policy", trap.url)


def rows(path, first, second, hostile):
    """A file whose columns have these names, in rows that fit the practice model."""
    hostile = hostile[:200]
    lines = [{first: f"{number} {hostile}", second: f"{hostile} {number}"} for number in range(30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_rows_columns_and_names_of_files_are_text(browser, page, trap, hostile, tmp_path):
    name = "<img src=x onerror=window.__attacked=9>"
    with watched(browser, page, trap) as visit:
        visit.open_form()
        visit.choose_data("Your files")
        visit.upload(rows(tmp_path / f"{name}odd.jsonl", f"1 {hostile}", f"2 {hostile}", hostile))
        visit.is_refused("its columns are not recognised")
        expect(visit.find("#tuner-mapping")).to_be_visible()
        visit.upload(rows(tmp_path / f"{name}.jsonl", "prompt", "answer", hostile))
        expect(visit.find("#tuner-rows article").first).to_contain_text("<script>window.__attacked")
        expect(visit.find("#tuner-report")).to_contain_text("img src=x onerror")


def test_a_problem_that_quotes_what_was_written_is_text(browser, page, trap, hostile):
    quoted = json.dumps(hostile)
    with watched(browser, page, trap) as visit:
        visit.open_form()
        visit.open_settings()
        recipe = visit.recipe_text()
        for key in ("learning_rate", "base_model", '"<img src=x onerror=window.__attacked=11>"'):
            others = re.sub(rf"(?m)^{re.escape(key)}:.*\n", "", recipe)
            visit.write_recipe(f"{key}: {quoted}\n{others}")
            visit.is_refused(key.strip('"'))


def test_a_run_and_its_line_in_the_list_are_text(browser, page, trap, hostile_run):
    with watched(browser, page, trap) as visit:
        visit.open(f"?run={hostile_run.id}")
        visit.is_in_state("failed")
        expect(visit.find("tuner-run .tuner-sample").first).to_contain_text("<script>window")
        expect(visit.find("tuner-run")).to_contain_text("onerror='window.__attacked = 2'")
        visit.show("Runs")
        expect(visit.find(f'tr.tuner-row[data-run="{hostile_run.id}"]')).to_be_visible()
        visit.open("?run=<img src=x onerror=window.__attacked=10>&view=<script>")


def test_questions_answers_and_what_is_said_of_them_are_no_script(
    browser, page, trap, hostile, hostile_run
):
    with watched(browser, page, trap) as visit:
        visit.open()
        visit.show("Playground")
        who = visit.find("#tuner-who input").first
        who.fill(hostile_run.id)
        who.press("Enter")
        visit.find("#tuner-held-out").click()
        expect(visit.find("#tuner-reference")).to_contain_text("<script>window.__attacked")
        expect(visit.find("#tuner-prompt textarea")).to_have_value(hostile)
        visit.find("#tuner-ask").click()
        answers = visit.find("#tuner-panes [data-testid=bot]")
        expect(answers).to_have_count(2)
        told = visit.find("#tuner-panes .tuner-pane-figures:visible")
        expect(told).to_contain_text(["<script>", "<script>"])
        for pane in range(2):  # both are at their end
            expect(answers.nth(pane)).not_to_contain_text("…")
        visit.find("#tuner-changed").click()
        expect(visit.find("#tuner-changed-shown")).to_contain_text("<script>window.__attacked")
        who.fill(f"nobody/{hostile}")
        who.press("Enter")
        expect(visit.find("#tuner-chat-said")).to_contain_text("<script>window.__attacked")


def test_a_browser_asks_no_other_host_whatever_the_page_should_hold(browser, page, trap):
    """Behind all that, the page's policy: here it is all there is."""
    put = f"""() => {{
      const image = new Image();
      const over = new Promise((done) => {{ image.onerror = image.onload = done; }});
      image.src = "{trap.url}/image.png";
      const told = fetch("{trap.url}/told", {{ mode: "no-cors" }}).then(() => "sent", () => "held");
      return Promise.all([over, told]).then(([_, told]) => told);
    }}"""
    with watched(browser, page, trap) as visit:
        visit.open()
        assert visit.tab.evaluate(put) == "held"
