"""One page for all attacks, a run on it that is hostile in all its texts, and a host to lure to."""

import json
import os
import time
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from tests.attacks.dataset_hub import serving
from tests.ui.pages import Page
from tests.ui.telling import metric
from tuner.data.sources import PROJECT_ROOT
from tuner.presets import load_preset
from tuner.recipe import make_recipe
from tuner.runs.events import EventWriter

ECHO = Path(__file__).parent / "echo"


@pytest.fixture(scope="package")
def trap():
    """A host that is not the page's; whoever asks it anything has been lured."""
    with serving() as server:
        yield server


@pytest.fixture(scope="package")
def page(tmp_path_factory, trap):
    """The page as people start it, but for its Hub, which has nothing, and its engine's answers."""
    folders = os.pathsep.join([str(ECHO), str(PROJECT_ROOT)])
    with serving() as hub:
        runs_dir = tmp_path_factory.mktemp("attacked") / "runs"
        with Page(runs_dir, PYTHONPATH=folders, HF_ENDPOINT=hub.url) as page:
            yield page


@pytest.fixture(scope="package")
def hostile(trap):
    """What does something, or asks the trap, wherever it is taken for HTML or Markdown."""
    return (
        "<script>window.__attacked = 1</script><img src=x onerror='window.__attacked = 2'>"
        '<svg onload="window.__attacked = 3"></svg></textarea></pre></script></style>--></template>'
        '"><iframe srcdoc="<script>parent.__attacked = 4</script>"></iframe>'
        "<details open ontoggle='window.__attacked = 5'><summary>x</summary></details>"
        "<a href='javascript:window.__attacked = 6'>a</a> [b](javascript:window.__attacked=7) "
        f"![c]({trap.url}/c.png) <img src='{trap.url}/d.png'> "
        f"<link rel=stylesheet href='{trap.url}/e.css'><style>@import '{trap.url}/f.css';"
        f"* {{ background: url({trap.url}/g.png) }}</style> "
        f"<form action='{trap.url}'><button>h</button></form><base href='{trap.url}/'>"
        f"<meta http-equiv=refresh content='0;url={trap.url}/i'> {{{{ 7*7 }}}} ${{7*7}}"
    )


@pytest.fixture(scope="package")
def hostile_run(page, hostile):
    """A completed run whose prompts, answers, warnings, log and reasons are all hostile."""
    values = dict(load_preset("chatbot").values)
    values["dataset"] = {**values["dataset"], "source": f"{hostile}.csv", "system_prompt": hostile}
    values |= {"sample_prompts": [hostile], "base_model": "starter"}
    run = page.store.create(make_recipe(values), "<img src=x onerror=window.__attacked=8>")
    with EventWriter(run.events_path) as events:
        for step in range(1, 6):
            metric(events, step, max_steps=5)
        for step in (0, 5):
            events.write("sample", step=step, index=0, prompt=hostile, text=hostile)
        events.write("warning", message=hostile)
        events.write("log", message=hostile)
        events.write("state", state="failed", reason=hostile)
    run.log_path.write_text(hostile)
    run.data_dir.mkdir(exist_ok=True)
    turns = [{"role": "user", "content": hostile}, {"role": "assistant", "content": hostile}]
    (run.data_dir / "eval.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    run.adapter_dir.mkdir()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "starter", "r": 8}
    (run.adapter_dir / "adapter_config.json").write_text(json.dumps(adapter))
    weights = {"lora_A": numpy.zeros((8, 8), numpy.float32)}
    save_file(weights, run.adapter_dir / "adapter_model.safetensors")
    ended = {"started": time.time() - 60, "finished": time.time(), "step": 5, "max_steps": 5}
    run.update_status(state="failed", reason=hostile, **ended)
    return run
