"""
The first visit in a real browser: from `python app.py` to the first loss on the screen; and how
long a run of 100,000 steps takes to open.

    python bench/first_visit.py           # about three minutes on 2 cores; needs Chromium

The visitor changes nothing: built-in model, sample data, and Start as soon as it can be clicked.
Opened cold: the app was just started and has not read the run. Warm: it has; the browser is as new.
From the list: a click in the Runs tab, in a browser that has the page open.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser

from bench.long_run import drop_from_memory, write_events
from tests.ui.browser import TRAIN_LINE, Visit, chromium, visiting
from tests.ui.pages import Page
from tuner.recipe import make_recipe
from tuner.runs.store import Run

# True once the curve is drawn: a path with a point, and a frame that shows it.
DRAWN = f"""() => {{
  const line = document.querySelector({TRAIN_LINE!r});
  return Boolean(line?.getAttribute("d")) && line.checkVisibility();
}}"""
Times = dict[str, float]


def first_loss(folder: Path, browser: Browser) -> Times:
    """Seconds of each phase of a first visit, and of all of them."""
    page, times = Page(folder / "runs"), {}
    began = last = time.perf_counter()

    def phase(name: str, act: Callable[[], object]) -> None:
        nonlocal last
        act()
        times[name] = time.perf_counter() - last
        last += times[name]

    phase("the app answers", page.start)
    try:
        with visiting(browser, page.url) as visit:
            phase("page loaded", visit.open)
            phase("Start can be clicked", visit.find("#tuner-start:enabled").wait_for)
            phase("run made", visit.start)
            phase("model and data ready", lambda: visit.is_in_state("running"))
            phase("first loss drawn", lambda: is_drawn(visit))
            visit.find("#tuner-stop").click()
            visit.is_in_state("stopped")
        times["all"] = last - began
    finally:
        page.close()
    return times


def is_drawn(visit: Visit) -> None:
    """Wait for the training curve; asked at every frame, so this adds none of its own."""
    visit.tab.wait_for_function(DRAWN, polling="raf")


def opened(folder: Path, browser: Browser, steps: int) -> Times:
    """Seconds from the navigation, or the click, to the curve of a long run."""
    times = {}
    page = Page(folder / "runs")
    run = long_run(page, steps)
    drop_from_memory(run.events_path)
    with page:
        for name in ("cold", "warm"):
            with visiting(browser, page.url) as visit:
                began = time.perf_counter()
                visit.open(f"?run={run.id}")
                is_drawn(visit)
                times[name] = time.perf_counter() - began
        with visiting(browser, page.url) as visit:
            visit.open_form()
            visit.show("Runs")
            link = visit.find(f'tr.tuner-row[data-run="{run.id}"] a')
            link.wait_for()
            began = time.perf_counter()
            link.click()
            is_drawn(visit)
            times["from the list"] = time.perf_counter() - began
    return times


def long_run(page: Page, steps: int) -> Run:
    """A completed run with the events of a long training."""
    run = page.store.create(make_recipe({}), "long")
    write_events(run, steps)
    run.update_status(state="completed", step=steps, max_steps=steps, waiting_since=None)
    return run


def print_table(title: str, rounds: list[Times]) -> None:
    """Seconds of each round, and their median."""
    heads = "".join(f" {number} |" for number in range(1, len(rounds) + 1))
    print(f"| {title} |{heads} median s |")
    print("|---|" + "--:|" * (len(rounds) + 1))
    for name in rounds[0]:
        values = [times[name] for times in rounds]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in (*values, median(values)))} |")
    print()


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args()
    visits, openings = [], []
    with chromium() as browser, tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for number in range(options.rounds):
            visits.append(first_loss(Path(folder) / f"visit-{number}", browser))
            openings.append(opened(Path(folder) / f"long-{number}", browser, options.steps))
    print_table("first visit", visits)
    print_table(f"{options.steps:,} steps opened", openings)


if __name__ == "__main__":
    main()
