"""The draft: what a control changes and what it leaves, and text that is wrong in every way."""

import random
import time
from itertools import product
from typing import Any

import pytest

from tuner.base_models.lookup import STARTER, SUGGESTED
from tuner.errors import RecipeError
from tuner.presets import PRESETS_DIR, load_preset, preset_names
from tuner.recipe import Recipe, known_keys, make_recipe
from tuner.ui import draft

NAMES = preset_names()
BASES = [model for models in SUGGESTED.values() for model in models]
OF_TIERS = {
    str(tier.settings.get("base_model", STARTER))
    for name in NAMES
    for tier in load_preset(name).about.hardware.values()
}
OWN_DATA = {"columns": {"prompt": ["question"], "answer": ["reply"]}, "config": "faq"}
UNTOUCHED = ("learning_rate", "lora", "batch_size")


def values_of(text: str) -> dict[str, Any]:
    found = draft.read_draft(text)
    assert found.problems == []
    return found.values


def preset_draft(name: str) -> str:
    return draft.write_draft(load_preset(name).values)


DRAFTS = {name: preset_draft(name) for name in NAMES}
OWN_DRAFTS = {name: draft.with_data(text, "faq.csv") for name, text in DRAFTS.items()}


def test_the_first_draft_can_be_started_as_it_is():
    recipe = draft.require_recipe(draft.first_draft())
    assert recipe == load_preset(draft.FIRST_PRESET).recipe()


def test_a_draft_holds_every_setting_in_the_recipes_order():
    assert list(values_of(draft.first_draft())) == list(Recipe.model_fields)


# Presets, base models and data.


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_chosen_over_the_sample_of_another_is_that_preset_as_it_stands(name):
    for before in NAMES:
        assert draft.with_preset(DRAFTS[before], name) == DRAFTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_own_data_survives_a_change_of_preset_and_sample_data_follows_it(name):
    sample = load_preset(name).values["dataset"]["source"]
    for before in NAMES:
        mine = draft.with_data(DRAFTS[before], "faq.csv", "file", **OWN_DATA)
        data = values_of(draft.with_preset(mine, name))["dataset"]
        assert (data["source"], data["kind"]) == ("faq.csv", "file")
        assert OWN_DATA.items() <= data.items()
        theirs = values_of(draft.with_preset(draft.with_sample_data(mine), name))["dataset"]
        assert (theirs["source"], theirs["kind"], theirs["columns"]) == (sample, "auto", {})


def test_own_questions_and_system_prompt_survive_a_change_of_preset_with_the_data():
    mine = draft.with_data(draft.first_draft(), "faq.csv", system_prompt="Be brief.")
    mine = draft.with_values(mine, {"sample_prompts": ["When do you open?"]})
    after = values_of(draft.with_preset(mine, "legal"))
    assert after["dataset"]["system_prompt"] == "Be brief."
    assert after["sample_prompts"] == ["When do you open?"]


def test_a_draft_without_questions_is_sound_after_a_change_of_preset():
    after = draft.read_draft(draft.with_preset("dataset: {source: faq.csv}", "legal"))
    assert after.problems == []
    assert after.values["sample_prompts"] == []


@pytest.mark.parametrize(("name", "base"), list(product(NAMES, BASES)))
def test_every_preset_takes_every_base_model_and_the_practice_model_restores_its_values(name, base):
    for before in (DRAFTS[name], OWN_DRAFTS[name]):
        after = values_of(draft.with_base_model(before, base))
        assert after["base_model"] == base
        assert after["dataset"] == values_of(before)["dataset"]
        assert after["sample_prompts"] == values_of(before)["sample_prompts"]
        assert draft.with_base_model(draft.write_draft(after), STARTER) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_base_model_brings_the_settings_of_its_tier(name):
    preset = load_preset(name)
    seen = set()
    for tier, about in preset.about.hardware.items():
        base = about.settings.get("base_model", STARTER)
        if base not in seen:  # the first tier that names it
            after = draft.with_base_model(DRAFTS[name], base)
            assert make_recipe(values_of(after)) == preset.recipe(tier)
        seen.add(base)


def test_a_base_model_that_no_tier_names_gets_the_tier_of_its_size():
    before = DRAFTS["chatbot"]
    tiers = load_preset("chatbot").about.hardware
    small = values_of(draft.with_base_model(before, "my/model", 500_000_000))
    large = values_of(draft.with_base_model(before, "my/model", 7_000_000_000))
    assert small["learning_rate"] == tiers["cpu"].settings["learning_rate"]
    assert (large["quantization"], large["max_length"]) == ("nf4", 2048)


def test_what_no_tier_changes_stays_when_the_base_model_changes():
    mine = draft.with_values(DRAFTS["chatbot"], {"seed": 7, "lora.lora_dropout": 0.1})
    after = values_of(draft.with_base_model(mine, "Qwen/Qwen3-0.6B"))
    assert (after["seed"], after["lora"]["lora_dropout"]) == (7, 0.1)


def test_another_base_model_drops_the_revision_of_the_last():
    mine = draft.with_values(draft.first_draft(), {"base_model": "my/model", "revision": "v2"})
    assert values_of(draft.with_base_model(mine, "my/other"))["revision"] is None


@pytest.mark.parametrize("base", [*sorted({*BASES} - OF_TIERS), "my/model", "/models/mine"])
def test_an_own_base_model_survives_a_change_of_preset_with_its_revision(base):
    mine = draft.with_values(draft.first_draft(), {"base_model": base, "revision": "v2"})
    for name in NAMES:
        after = values_of(draft.with_preset(mine, name))
        assert (after["base_model"], after["revision"]) == (base, "v2")


@pytest.mark.parametrize("name", NAMES)
def test_a_base_model_of_one_presets_tier_becomes_the_one_of_the_same_size(name):
    small = load_preset(name).about.hardware["cpu"].settings["base_model"]
    for other in NAMES:
        mine = draft.with_base_model(DRAFTS[other], "HuggingFaceTB/SmolLM2-135M-Instruct")
        assert values_of(draft.with_preset(mine, name))["base_model"] == small


def test_without_a_preset_a_base_model_changes_nothing_else():
    before = draft.with_values(draft.first_draft(), {"preset": None})
    after = values_of(draft.with_base_model(before, "Qwen/Qwen3-0.6B"))
    assert after == {**values_of(before), "base_model": "Qwen/Qwen3-0.6B"}


def test_other_data_leaves_the_training_settings_and_drops_what_belonged_to_the_last():
    hub = draft.with_data(
        draft.first_draft(), "a/b", "hub", config="en", split="test", columns={"text": ["t"]}
    )
    hub = draft.with_values(hub, {"dataset.revision": "v2", "dataset.max_rows": 50})
    after = values_of(draft.with_data(hub, "faq.csv"))
    data = after["dataset"]
    assert (data["config"], data["revision"], data["columns"]) == (None, None, {})
    assert (data["split"], data["max_rows"]) == ("train", 50)
    assert all(after[key] == values_of(hub)[key] for key in UNTOUCHED)


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_data_comes_back_with_its_system_prompt_and_questions(name):
    before = DRAFTS[name]
    assert draft.with_sample_data(draft.with_data(before, "faq.csv")) == before


def test_a_presets_system_prompt_goes_with_its_sample_and_an_own_one_stays():
    theirs = draft.with_data(draft.first_draft(), "faq.csv")
    assert values_of(theirs)["dataset"]["system_prompt"] is None
    mine = draft.with_values(draft.first_draft(), {"dataset.system_prompt": "Be brief."})
    assert values_of(draft.with_data(mine, "a.csv"))["dataset"]["system_prompt"] == "Be brief."


def test_questions_from_own_rows_are_asked_only_where_none_were_written():
    mine = draft.with_data(draft.first_draft(), "faq.csv")
    asked = draft.with_own_prompts(mine, ["When?"])
    assert values_of(asked)["sample_prompts"] == ["When?"]
    assert draft.with_own_prompts(asked, ["Where?"]) == asked
    assert draft.with_own_prompts(draft.first_draft(), ["When?"]) == draft.first_draft()
    assert draft.with_own_prompts(mine, []) == mine


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ({"source": "presets/data/code.jsonl"}, "sample"),
        ({"source": "faq.csv"}, "files"),
        ({"source": ""}, "files"),
        ({}, "files"),
        (None, "files"),
        ({"source": "a/b", "kind": "hub"}, "hub"),
        ({"source": "src.zip", "kind": "repository"}, "repository"),
        ({"source": ["presets/data/code.jsonl"]}, "files"),
        ({"source": {"a": 1}, "kind": []}, "files"),
    ],
)
def test_where_the_data_comes_from(dataset, kind):
    assert draft.data_kind({"dataset": dataset}) == kind


def test_roles_without_columns_are_left_to_be_recognised():
    after = draft.with_columns(
        draft.with_data(draft.first_draft(), "a.csv"), {"prompt": ("q",), "answer": (), "text": []}
    )
    assert values_of(after)["dataset"]["columns"] == {"prompt": ["q"]}


def test_a_recipe_of_an_earlier_run_begins_a_draft_without_its_fingerprint():
    recipe = make_recipe(load_preset("code").values | {"seed": 3})
    marked = recipe.model_copy(
        update={"dataset": recipe.dataset.model_copy(update={"fingerprint": "ab" * 32})}
    )
    assert draft.require_recipe(draft.of_recipe(marked)) == recipe


# Methods.


@pytest.mark.parametrize("method", draft.METHODS)
def test_a_method_that_was_chosen_is_the_one_that_is_shown_from_every_other(method):
    for before in draft.METHODS:
        text = draft.with_method(draft.with_method(draft.first_draft(), before), method)
        assert draft.method_of(values_of(text)) == method


def test_a_dora_adapter_stays_one_as_long_as_there_is_an_adapter():
    text = draft.with_values(draft.first_draft(), {"adapter": "dora"})
    for method in ("qlora", "lora8", "lora"):
        text = draft.with_method(text, method)
        assert values_of(text)["adapter"] == "dora"
    assert values_of(draft.with_method(text, "full"))["adapter"] == "none"


# What is wrong stays until it is corrected, and never breaks anything.

BROKEN = {
    "no text": "",
    "a word": "hello",
    "a list": "- a\n- b",
    "not closed": "learning_rate: [1, 2",
    "a tab": "lora:\n\tr: 8",
    "two documents": "a: 1\n---\nb: 2",
    "a list as key": "? [a]\n: b",
    "python": "a: !!python/object/apply:os.system ['true']",
    "a python name": "a: !!python/name:os.system",
    "deep": "a: " + "[" * 300,
    "deep groups": "a: " + "{b: " * 200 + "1" + "}" * 200,
    "no such day": "a: 2026-02-30",
    "no such number": "a: !!int x",
    "no such float": "a: !!float x",
    "no such truth": "a: !!bool x",
    "no such time": "a: !!timestamp x",
    "a number without end": "a: " + "9" * 5000,
    "a number in disguise": "a: 1" + ":59" * 5000,
    "a hexadecimal number": "learning_rate: 0x" + "f" * 5000,
    "an alias": "a: &a [x]\nb: *a",
    "itself": "a: &a [*a]",
    "an alias of nothing": "a: *a",
    "a NUL": "a: \0",
    "half a character": "a: \ud800",
}
WRONG = [
    "lora:",
    "lora: []",
    "lora: 7",
    "lora: {lora: {r: 8}}",
    "lora: {1: 2}",
    "dataset:",
    "dataset: x",
    "dataset: [a]",
    "dataset: {source: [a]}",
    "dataset: {source: {a: b}, columns: [a]}",
    "dataset: {columns: {1: [2]}}",
    "dataset: {columns: {prompt: {a: b}}}",
    "base_model: [a]",
    "base_model: {a: b}",
    "base_model:",
    "preset: [a]",
    "preset: {a: b}",
    "adapter: [lora]",
    "quantization: {a: b}",
    "learning_rate: .nan",
    "learning_rate: !!binary aGk=",
    "max_length: 2026-01-01",
    "sample_prompts: {a: b}",
    "{1: 2, ~: 3, 1.5: 4, true: 5}",
    "a: !!set {b, c}",
]
CHANGES = {
    "preset": lambda text: draft.with_preset(text, "code"),
    "base model": lambda text: draft.with_base_model(text, "Qwen/Qwen3-0.6B"),
    "practice model": lambda text: draft.with_base_model(text, STARTER),
    "method": lambda text: draft.with_method(text, "qlora"),
    "data": lambda text: draft.with_data(text, "faq.csv"),
    "sample": draft.with_sample_data,
    "columns": lambda text: draft.with_columns(text, {"prompt": ["a"]}),
    "field": lambda text: draft.with_values(text, {"lora.r": 8}),
    "questions": lambda text: draft.with_own_prompts(text, ["When?"]),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_text_that_is_no_yaml_is_one_sentence_and_is_never_lost(text):
    found = draft.read_draft(text)
    assert (found.values, found.recipe) == ({}, None)
    [problem] = found.problems
    assert problem.startswith("The recipe ") and problem.endswith(".") and "\n" not in problem
    assert len(problem) < 300
    for name, change in CHANGES.items():
        if name != "preset":  # which is what the sentence offers as a way out
            assert change(text) == text
    assert draft.with_preset(text, "code") == DRAFTS["code"]


@pytest.mark.parametrize("text", WRONG)
def test_settings_that_are_wrong_are_told_and_every_control_still_works(text):
    found = draft.read_draft(text)
    assert found.problems
    assert draft.method_of(found.values) in draft.METHODS
    assert draft.data_kind(found.values) in ("sample", "files", "hub", "repository")
    for change in CHANGES.values():
        assert draft.read_draft(change(text)).values


def test_a_line_that_cannot_be_read_is_named():
    [problem] = draft.read_draft("seed: 1\nlearning_rate: 2e-4\nlora: {r: 8").problems
    assert "in line 3" in problem
    [problem] = draft.read_draft("seed: 1\nmax_steps: 2026-02-30\n").problems
    assert "in line 2: 2026-02-30 cannot be understood" in problem


def test_a_few_lines_that_stand_for_gigabytes_are_refused_at_once():
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    start = time.monotonic()
    for setting in ("learning_rate", "sample_prompts", "unknown", "base_model"):
        [problem] = draft.read_draft("\n".join([*lines, f"{setting}: *a11"])).problems
        assert "*a0 stands for another part, which has to be written out" in problem
        assert len(problem) < 300
    assert time.monotonic() - start < 5


def test_unknown_keys_stay_where_they_were_and_are_told_with_the_nearest():
    text = draft.with_values("max_lenght: 512\nlora: {rank: 4}\nmine: [1, {a: b}]\n", {"seed": 7})
    found = draft.read_draft(text)
    assert found.values["max_lenght"] == 512
    assert found.values["lora"]["rank"] == 4
    assert found.values["mine"] == [1, {"a": "b"}]
    assert found.problems == [
        "lora.rank is not a recipe setting. Did you mean lora.r?",
        "max_lenght is not a recipe setting. Did you mean max_length?",
        "mine is not a recipe setting. See `python -m tuner train --help`.",
    ]


def test_a_value_that_is_wrong_stays_while_others_are_changed():
    text = draft.with_method(draft.with_values(draft.first_draft(), {"seed": "seven"}), "full")
    assert draft.read_draft(text).values["seed"] == "seven"
    assert draft.read_draft(text).problems == [
        "seed='seven' cannot be used: it must be a whole number."
    ]


def test_a_preset_that_does_not_exist_is_no_path_and_stands_in_the_way_of_nothing():
    for change in CHANGES.values():
        assert draft.read_draft(change("preset: ../../secret")).problems == []


def test_a_key_that_is_no_setting_changes_nothing():
    assert draft.with_values(draft.first_draft(), {"no.such": 1}) == draft.first_draft()


@pytest.mark.parametrize("name", NAMES)
def test_a_presets_file_is_a_draft_whose_about_is_passed_over(name):
    found = draft.read_draft((PRESETS_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
    assert "about" not in found.values
    assert found.recipe == load_preset(name).recipe()


def test_a_draft_without_data_is_sound_but_cannot_be_started():
    text = draft.with_data(draft.first_draft(), "")
    assert draft.read_draft(text).problems == []
    with pytest.raises(RecipeError, match="There is no data yet"):
        draft.require_recipe(text)


def test_a_draft_that_cannot_be_started_says_everything_that_is_wrong():
    with pytest.raises(RecipeError) as error:
        draft.require_recipe("seed: x\nmax_length: 2\n")
    assert len(error.value.problems) == 2


# Round trips.

TEXTS = (
    "plain",
    "yes",
    "null",
    "~",
    "12",
    "1e3",
    "0x1f",
    "2026-01-01",
    "a: b",
    "# no comment",
    "- no item",
    "  spaces  ",
    "two\nlines",
    "two\n\n\nparagraphs\n",
    " \n ",
    "tab\tand\rreturn",
    "‘’ “”  — 日本語 👩‍🚀",
    "a\u2028b\x85c\u00a0d\ufeffe",
    "\x07\x1b[0m",
    "'single' \"double\" `back` \\ \\n",
    "{a} [b] *c &d !e |f >g %h @i",
    "word " * 60,
    "x" * 300,
)


def anything(draw: random.Random, depth: int = 0) -> Any:
    """Some value as YAML can hold it."""
    kinds: list[Any] = [None, True, False, draw.choice(TEXTS), draw.uniform(-1e3, 1e3)]
    kinds += [draw.randrange(-(10**12), 10**12), 10.0 ** draw.randrange(-12, 12), "", 0.1, 1e-05]
    if depth < 3:
        kinds += [[anything(draw, depth + 1) for _ in range(draw.randrange(4))]] * 2
        keys = (draw.choice(TEXTS) for _ in range(draw.randrange(4)))
        kinds.append({key: anything(draw, depth + 1) for key in keys})
    return draw.choice(kinds)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_written_reads_as_it_was_whatever_it_is(seed):
    draw = random.Random(seed)
    values: dict[str, Any] = {}
    for key in draw.sample(known_keys(), 6):
        section, _, name = key.partition(".")
        if name and isinstance(values.setdefault(section, {}), dict):
            values[section][name] = anything(draw)
        else:
            values[section] = anything(draw)
    values |= {f"other {draw.choice(TEXTS)}": anything(draw)}
    text = draft.write_draft(values)
    found = draft.read_draft(text)
    assert draft.write_draft(found.values) == text
    for key, value in values.items():
        if key in ("lora", "dataset") and isinstance(value, dict):
            assert value.items() <= found.values[key].items()
        else:
            assert found.values[key] == value
    assert (found.recipe is None) == bool(found.problems)


@pytest.mark.parametrize("prompt", TEXTS)
def test_a_sound_draft_survives_any_text_in_its_prompts(prompt):
    text = draft.with_values(
        draft.first_draft(), {"dataset.system_prompt": prompt, "sample_prompts": [prompt, prompt]}
    )
    recipe = draft.require_recipe(text)
    assert recipe.dataset.system_prompt == prompt
    assert recipe.sample_prompts == [prompt, prompt]
    assert draft.require_recipe(draft.of_recipe(recipe)) == recipe
