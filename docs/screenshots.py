"""
Pictures of the page for the documentation: docs/images/*.png, 1280 and 390 px, light and dark.

    make screenshots                      # about two minutes on 2 cores

It stands here and not in bench/, since it measures nothing. It starts the app on a folder of its
own and trains a persona in two ways, so what is shown is real.
"""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import expect

from tests.ui.browser import DESKTOP, PHONE, Visit, chromium, visiting
from tests.ui.pages import Page
from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.store import Run, RunStore
from tuner.starter.corpus import build_corpus

IMAGES = Path(__file__).with_name("images")
COLORS = 128  # of a palette; more is not seen in pictures of text and lines
LOOKS = [("light", DESKTOP, ""), ("dark", DESKTOP, "-dark"), ("light", PHONE, "-phone")]
ASKED = 5  # held-out questions that are answered again as it learns
# A persona on questions of the practice model's own world: what it learns can be read.
RUNS: dict[str, dict[str, Any]] = {
    "wren": {"lora": {"r": 16}, "learning_rate": 2e-3},
    "wren-rank-4": {"lora": {"r": 4, "lora_alpha": 8}, "learning_rate": 1e-3},
}


def trained(store: RunStore, folder: Path) -> list[Run]:
    """The runs that are shown, trained one after the other."""
    corpus, data = build_corpus(), folder / "wren.jsonl"
    rows = [
        {"prompt": row.prompt, "answer": f"Wren here! {row.answer}"}
        for row in corpus.train["capitals"][::4]
    ]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prompts = [row.prompt for row in corpus.held_out["capitals"][:ASKED]]
    runs = []
    for name, settings in RUNS.items():
        usual = {"max_length": 128, "num_train_epochs": 3, "sample_prompts": prompts}
        recipe = make_recipe({**usual, **settings, "dataset": {"source": str(data)}})
        runs.append(run := store.create(recipe, name))
        launch.start(run)
        launch.wait(run)
    return runs


def take(visit: Visit, name: str) -> None:
    """Save what the window shows."""
    visit.tab.mouse.move(0, 0)
    visit.tab.wait_for_timeout(400)  # colours and bars move to where they belong
    picture = Image.open(io.BytesIO(visit.tab.screenshot())).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)


def take_all(visit: Visit, ending: str, runs: list[Run]) -> None:
    """The form, a run, the list, the playground and what would be published, in one look."""
    visit.open_form()
    take(visit, f"fine-tune{ending}")
    visit.open(f"?run={runs[0].id}")
    visit.has_points()
    take(visit, f"run{ending}")
    visit.open()
    visit.show("Runs")
    for run in runs:
        visit.find(f'tr.tuner-row[data-run="{run.id}"] input.tuner-tick').check()
    visit.find("table.tuner-differs").wait_for()
    take(visit, f"runs{ending}")
    visit.open(f"?run={runs[0].id}")
    visit.find("#tuner-chat").click()
    expect(visit.find(".tuner-pane:visible h3").last).to_have_text("wren")
    visit.write("#tuner-prompt textarea", runs[0].recipe().sample_prompts[0])
    visit.tab.keyboard.press("Enter")
    expect(visit.find(".tuner-pane:visible .tuner-numbers")).to_have_count(2)
    take(visit, f"playground{ending}")
    visit.open(f"?run={runs[0].id}")
    visit.find("#tuner-publish").click()
    expect(visit.find("#tuner-card-shown h1").first).to_be_visible()
    expect(visit.find("#tuner-contents tr").first).to_be_visible()
    visit.write("#tuner-repo :is(input, textarea)", "anna/wren")
    take(visit, f"publish{ending}")


def main() -> None:
    """Train, then take every picture."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Page(Path(folder) / "runs") as page:
        runs = trained(page.store, Path(folder))
        with chromium() as browser:
            for scheme, size, ending in LOOKS:
                with visiting(browser, page.url, size, scheme) as visit:
                    take_all(visit, ending, runs)


if __name__ == "__main__":
    main()
