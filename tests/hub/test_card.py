"""The model card: what it says of runs, what it never says, and what it makes of others' text."""

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tests.hub.conftest import TOKEN
from tests.hub.told_runs import FINGERPRINT, REPORT, keep_adapter, say, tell, told_run
from tests.tiny_models import CHAT_TEMPLATE, tiny_tokenizer
from tuner.chat.votes import add_vote
from tuner.data.rendering import Renderer
from tuner.data.tokenizer import PLAIN_TEMPLATE
from tuner.hub import local_paths
from tuner.hub.card import make_card
from tuner.hub.card.markdown import INVISIBLE
from tuner.presets import load_preset
from tuner.runs.events import EventWriter

REPO = "anna/bot"
COMMIT = "c1" * 20
BASE_CARD = "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: LICENSE\n---\n# Base\n"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
HOSTILE = (
    '```\n~~~\n---\n</details><script>alert(1)</script>\n<img src=x onerror="x()">'
    "\n| a | b |\n# big\u202e\x1b[31m {{ 7*7 }} [link](javascript:x) $x$ ''' \"\"\" \\ "
)


@pytest.fixture
def run(tmp_path):
    return told_run(tmp_path / "runs")


def front(card):
    """The front matter as huggingface_hub reads it."""
    return ModelCard(card).data


def recipe_in(card):
    """The recipe's YAML out of the card."""
    return yaml.safe_load(re.search(r"(?ms)^`{3,}yaml\n(.*?)\n`{3,}$", card)[1])


def test_the_front_matter_names_the_base_its_licence_the_data_and_the_result(hub, tmp_path):
    base = hub.add_repo("qwen/tiny", {"README.md": BASE_CARD.encode()}, private=False)
    dataset = {"source": "org/rows", "kind": "hub"}
    run = told_run(tmp_path, base_model="qwen/tiny", revision=base.at().oid, dataset=dataset)
    tell(run, REPORT | {"license": "cc-by-nc-4.0", "revision": COMMIT})
    card = make_card(run, REPO)
    data = front(card)
    assert (data.base_model, data.base_model_relation) == ("qwen/tiny", "adapter")
    assert (data.license, data.license_name) == ("other", "qwen-research")
    assert data.license_link == "https://huggingface.co/qwen/tiny/blob/main/LICENSE"
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert data.datasets == ["org/rows"]
    assert {"lora", "sft", "non-commercial"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("loss", 1.25)
    assert (data.model_name, result.dataset_type) == ("bot", "org/rows")
    assert f'"qwen/tiny", revision="{base.at().oid}"' in card, "the base is pinned"
    assert "Licence of the data: cc-by-nc-4.0. **Not for commercial use**" in card
    assert recipe_in(card)["dataset"]["revision"] == COMMIT
    assert {asked.token for asked in hub.requests} == {None}, "as a stranger"


def test_the_licence_of_a_private_base_is_read_with_the_publishers_token_alone(hub, tmp_path):
    base = hub.add_repo("anna/secret-base", {"README.md": b"---\nlicense: mit\n---\n"})
    run = told_run(tmp_path, base_model="anna/secret-base", revision=base.at().oid)
    assert front(make_card(run, REPO)).license is None
    card = make_card(run, REPO, token=TOKEN)
    assert front(card).license == "mit"
    assert TOKEN not in card
    assert front(make_card(run, REPO)).license is None, "not remembered for others"


def test_a_base_whose_licence_cannot_be_looked_up_is_said_to_be_unknown(tmp_path):
    card = make_card(told_run(tmp_path, base_model="org/base", revision=COMMIT), REPO)
    assert front(card).base_model == "org/base" and front(card).license is None
    assert "[its page](https://huggingface.co/org/base)" in card


def test_the_practice_models_licence_is_its_own_and_it_is_no_model_of_the_hub(run):
    card = make_card(run, REPO)
    data = front(card)
    assert (data.license, data.base_model, data.base_model_relation) == (
        "apache-2.0",
        None,
        "adapter",
    )
    assert "Inherited from the base model: apache-2.0." in card


def test_a_local_base_is_its_last_name_with_its_readmes_licence(tmp_path):
    base = tmp_path / "my models" / "house-llama"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: House Licence 1\n---\n")
    card = make_card(told_run(tmp_path / "runs", base_model=str(base)), REPO)
    data = front(card)
    assert (data.base_model, data.license, data.license_name) == (None, "other", "House Licence 1")
    assert recipe_in(card)["base_model"] == "house-llama"
    assert str(tmp_path) not in card


def test_a_base_in_the_hubs_cache_is_named_as_on_the_hub(tmp_path):
    base = tmp_path / "models--org--base" / "snapshots" / COMMIT
    base.mkdir(parents=True)
    card = make_card(told_run(tmp_path / "runs", base_model=str(base)), REPO)
    assert front(card).base_model == "org/base"
    assert recipe_in(card)["revision"] == COMMIT


@pytest.mark.parametrize("settings", [{}, {"adapter": "none"}], ids=["merged", "full"])
def test_a_whole_model_is_a_finetune_that_loads_without_peft(tmp_path, settings):
    card = make_card(told_run(tmp_path, **settings), REPO, merged=not settings)
    data = front(card)
    assert (data.base_model_relation, data.library_name) == ("finetune", "transformers")
    assert "peft" not in card.partition("## Data")[0].replace("library_name", "")
    assert "vllm serve anna/bot" in card and "ollama create bot" in card


def test_the_presets_purpose_notice_and_sample_licence_are_told(tmp_path):
    preset = load_preset("medical")
    run = told_run(tmp_path, preset="medical", dataset={"source": "presets/data/medical.jsonl"})
    card = make_card(run, REPO)
    assert preset.about.description in card and preset.about.notice in card
    assert "Sample data of the preset medical" in card
    assert "Licence of the data: Apache-2.0." in card
    assert recipe_in(card)["dataset"]["source"] == "presets/data/medical.jsonl"


def test_a_non_commercial_data_set_that_a_preset_knows_is_marked_without_a_report(tmp_path):
    dataset = {"source": "HuggingFaceH4/no_robots", "kind": "hub"}
    card = make_card(told_run(tmp_path, preset="chatbot", dataset=dataset), REPO)
    assert "CC-BY-NC-4.0. **Not for commercial use**" in card
    assert "non-commercial" in front(card).tags


def test_figures_hardware_data_and_recipe_are_told(run):
    card = make_card(run, REPO)
    for told in (
        "| Loss | 2.50 | 1.25 |",
        "| Hardware | NVIDIA L4, 24.0 GB |",
        "| Time | 1 min 52 s, estimated 1 min 40 s |",
        "| Peak memory | 6.1 GB, estimated 5.9 GB |",
        "| Versions | peft 0.21.2, torch 2.13.0 |",
        "90 rows to train on, 10 held out",
        f"`{FINGERPRINT}`",
        "![Loss by optimizer step: training and held-out rows](loss.png)",
        "`sums.csv`, which is not published here",
        "the same after training, bit for bit",
    ):
        assert told in card
    assert recipe_in(card) == run.recipe().model_dump(mode="json")
    assert make_card(run, REPO) == card, "publishing again must change nothing"


def test_three_questions_are_shown_with_the_answers_of_the_base_and_of_the_kept_step(run):
    card = make_card(run, REPO)
    assert "The first 3 of 4 prompts" in card
    assert [card.count(f"The base answers {n} at 0.") for n in range(4)] == [1, 1, 1, 0]
    shown = card.partition("## How to use it")[0]
    assert [shown.count(f"The tuned model answers {n} at 4.") for n in range(4)] == [1, 1, 1, 0]
    run.write_result({**run.result(), "kept_step": 2})
    with EventWriter(run.events_path) as events:
        events.resume(4)
        say(events, 2, "The best")
    assert "The best answers 0 at 2." in make_card(run, REPO)


def test_votes_are_counted_with_their_interval_and_their_texts_stay_private(run):
    assert "blind votes" not in make_card(run, REPO)
    for number in range(10):
        winner = "left" if number < 8 else "right"
        answers, voices = ("one's own", "theirs"), ("support-bot", "base")
        add_vote(run, prompt="my salary?", answers=answers, voices=voices, winner=winner)
    card = make_card(run, REPO)
    assert "In 10 blind votes against the base it won 8 and lost 2" in card
    assert "Win rate 80% (95% interval 49% to 94%" in card
    assert "salary" not in card and "one's own" not in card


def test_a_bare_run_has_a_card_of_what_is_known(tmp_path):
    run = told_run(tmp_path)
    for left in (run.result_path, run.events_path, run.data_dir / "report.json"):
        left.unlink()
    for left in run.adapter_dir.iterdir():
        left.unlink()
    card = make_card(run, REPO)
    assert front(card).eval_results is None
    assert "loss.png" not in card and "Before and after" not in card
    assert "PeftModel.from_pretrained" in card


def test_a_result_edited_into_nonsense_does_not_break_the_card(run):
    run.write_result({"eval_loss": "low", "versions": [1], "hardware": "GPU", "kept_step": True})
    tell(run, {"train_rows": "many", "license": 5, "revision": [], "kind": 7})
    assert front(make_card(run, REPO)).eval_results is None


def test_hostile_text_stays_text_in_markdown_and_yaml(tmp_path):
    long = "x" * 5000
    run = told_run(
        tmp_path,
        preset=HOSTILE,
        dataset={"source": HOSTILE, "system_prompt": HOSTILE, "columns": {"prompt": HOSTILE}},
        sample_prompts=[HOSTILE, long],
        lora={"target_modules": [HOSTILE]},
    )
    run.events_path.unlink()
    with EventWriter(run.events_path) as events:
        for step in (0, 4):
            say(events, step, HOSTILE, (HOSTILE, long))
    run.write_result({**run.result(), "versions": {HOSTILE: HOSTILE}, "device": HOSTILE})
    tell(run, REPORT | {"license": HOSTILE, "source": HOSTILE})
    card = make_card(run, f"anna/{HOSTILE}")
    tokens = (
        MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.split("---\n", 2)[2])
    )
    flat = [inner for token in tokens for inner in (token, *(token.children or ()))]
    html = {token.content.strip() for token in flat if token.type.startswith("html")}
    folded = "<details><summary>Every setting, as YAML</summary>"
    assert html == {folded, "</details>"}
    assert not [token for token in flat if "javascript" in str(token.attrs)]
    headings = [
        tokens[n + 1].content for n, t in enumerate(tokens) if t.tag == "h1" and t.nesting == 1
    ]
    assert len(headings) == 1
    assert front(card).base_model_relation == "adapter"
    assert recipe_in(card)["dataset"]["columns"]["prompt"].startswith("```")
    assert not INVISIBLE.search(card)
    assert "x" * 1000 not in card.partition("Every setting")[0], "samples are cut"


def test_no_place_on_this_machine_is_in_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/root"))
    source = tmp_path / "clients of ann" / "rows.csv"
    run = told_run(tmp_path / "runs", dataset={"source": str(source), "kind": "file"})
    seen = (str(run.dir / "data"), str(local_paths.PROJECT_ROOT / "app.py"), "/root/.ssh/id_rsa")
    with EventWriter(run.events_path) as events:
        for step in (0, 4):
            say(events, step, " ".join(seen))
    card = make_card(run, REPO)
    assert "`rows.csv`" in card and recipe_in(card)["dataset"]["source"] == "rows.csv"
    assert "clients of ann" not in card
    assert not [place for place in (*seen, str(tmp_path), "/root") if place in card]
    assert "data app.py id_rsa answers 0" in card


def test_a_token_that_a_model_repeats_is_not_published(run):
    with EventWriter(run.events_path) as events:
        say(events, 4, f"Use {TOKEN}")
    card = make_card(run, REPO)
    assert "Use [Hub token]" in card and TOKEN not in card


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, PLAIN_TEMPLATE, NO_SYSTEM + CHAT_TEMPLATE])
def test_the_prompt_is_written_exactly_as_it_was_trained(tmp_path, template):
    run = told_run(tmp_path, dataset={"system_prompt": "Be brief."})
    keep_adapter(run, template)
    renderer = Renderer(tiny_tokenizer(template))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is my order?"},
        {"role": "assistant", "content": "The tuned model answers 0 at 4."},
    ]
    trained = renderer.render({"messages": messages}).text
    card = make_card(run, REPO)
    assert f"```text\n{trained.strip()}\n```" in card
    assert "An answer ends with `<|im_end|>`" in card
    assert 'PARAMETER stop "<|im_end|>"' in card and 'SYSTEM """Be brief."""' in card
    assert 'TEMPLATE """' in card


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 9999999999 }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__ }}",
        "{% if %}",
    ],
    ids=["endless", "huge", "attributes", "syntax"],
)
def test_a_hostile_chat_template_costs_the_card_its_example_and_no_more(run, template):
    keep_adapter(run, template)
    card = make_card(run, REPO)
    assert "by the tokenizer's chat template, which is in this repo" in card
    assert "TEMPLATE" not in card


def test_a_run_on_plain_text_is_loaded_without_a_chat_format(run):
    tell(run, REPORT | {"kind": "text"})
    card = make_card(run, REPO)
    assert "It continues plain text" in card
    assert "apply_chat_template" not in card and 'inputs = tokenizer("Where is my order?"' in card


def test_vllm_gets_room_for_the_rank_and_no_dora(tmp_path):
    wide = told_run(tmp_path, lora={"r": 20})
    assert "--max-lora-rank 32 --lora-modules bot=anna/bot" in make_card(wide, REPO)
    dora = make_card(told_run(tmp_path, "dora", adapter="dora"), REPO)
    assert "vLLM loads no DoRA adapters" in dora and "--enable-lora" not in dora
