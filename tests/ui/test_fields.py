"""The recipe as fields: none missing, none twice, and nothing changed by being shown."""

from collections import Counter
from typing import Any

import pytest

from tuner.presets import load_preset, preset_names
from tuner.recipe import Recipe, Section, known_keys, make_recipe, with_settings
from tuner.ui.fields import ELSEWHERE, GROUPS, MAIN, OTHERS, Field, fields

FIELDS = {field.key: field for field in fields()}
SECTIONS = {
    name for name, info in Recipe.model_fields.items() if isinstance(info.annotation, type(Section))
}
TIERS = [(name, tier) for name in preset_names() for tier in load_preset(name).about.hardware]


def at(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def shown_and_read(values: dict[str, Any]) -> dict[str, Any]:
    return {key: field.read(field.shown(values)) for key, field in FIELDS.items()}


def put(key: str, value: Any) -> dict[str, Any]:
    return with_settings(Recipe().model_dump(mode="json"), {key: value})


def test_every_setting_is_a_field_exactly_once_or_has_a_place_of_its_own():
    settings = set(known_keys()) - SECTIONS
    assert settings >= ELSEWHERE
    assert Counter(field.key for field in fields()) == Counter(settings - ELSEWHERE)


def test_the_main_fields_come_first_and_in_order():
    assert list(FIELDS)[: len(MAIN)] == list(MAIN)


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS.keys())
def test_a_field_has_a_label_a_help_and_a_group(field: Field):
    assert field.label.strip() and field.help.strip().endswith(".")
    assert field.group in {*GROUPS, OTHERS}
    assert "_" not in field.label


def test_no_two_fields_of_a_group_have_the_same_label():
    told = Counter((field.group, field.label) for field in FIELDS.values())
    assert set(told.values()) == {1}


@pytest.mark.parametrize(("name", "tier"), TIERS)
def test_what_is_shown_of_a_preset_reads_as_the_preset(name: str, tier: str):
    values = load_preset(name).recipe(tier).model_dump(mode="json")
    for key, read in shown_and_read(values).items():
        assert read == at(values, key), key


def test_what_is_shown_of_the_defaults_reads_as_the_defaults():
    values = Recipe().model_dump(mode="json")
    for key, read in shown_and_read(values).items():
        assert read == at(values, key), key
    assert make_recipe(with_settings({}, shown_and_read(values))) == Recipe()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 0.000123456789),
        ("learning_rate", 1e-12),
        ("num_train_epochs", 2.5),
        ("num_train_epochs", 1234567.25),
        ("warmup_steps", 100.0),
        ("seed", -(10**12)),
        ("micro_batch_size", 4),
        ("micro_batch_size", "auto"),
        ("eval_steps", "auto"),
        ("gradient_checkpointing", "auto"),
        ("gradient_checkpointing", True),
        ("gradient_checkpointing", False),
        ("packing", True),
        ("neftune_noise_alpha", 5.0),
        ("lora.target_modules", ["q_proj", "v_proj"]),
        ("lora.target_modules", ["q_proj"]),
        ("lora.target_modules", r".*\.q_proj"),
        ("revision", "12345678"),
        ("revision", "1e5"),
        ("dataset.split", "true"),
        ("dataset.config", "null"),
        ("dataset.system_prompt", "[INST] Be brief: yes, # and 'so' on."),
        ("dataset.system_prompt", "'Be brief.'"),
        ("dataset.system_prompt", "Be brief.\nBe kind.\n"),
        ("dataset.system_prompt", "007"),
        ("sample_prompts", ["One?", "Two: 2?", "- three", "4"]),
        ("sample_prompts", ["Fix this:\n\ndef f():\n    return 1\n", r'print("\n")']),
        ("sample_prompts", []),
    ],
)
def test_a_value_that_is_shown_reads_as_it_was(key: str, value: Any):
    values = put(key, value)
    assert FIELDS[key].read(FIELDS[key].shown(values)) == value
    assert make_recipe(with_settings({}, shown_and_read(values))) == make_recipe(values)


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("learning_rate", "2e-4", 0.0002),
        ("learning_rate", " 0.1 ", 0.1),
        ("learning_rate", "", None),
        ("learning_rate", None, None),
        ("learning_rate", "a lot", "a lot"),
        ("max_steps", "60", 60),
        ("max_steps", "  ", None),
        ("micro_batch_size", "auto", "auto"),
        ("lora.target_modules", "q_proj, v_proj,", ["q_proj", "v_proj"]),
        ("lora.target_modules", "[q_proj]", ["q_proj"]),
        ("lora.target_modules", "all-linear", "all-linear"),
        ("revision", " main ", "main"),
        ("dataset.system_prompt", " \n ", None),
        ("sample_prompts", "\n One? \n\nTwo?\n", ["One?", "Two?"]),
        ("sample_prompts", None, []),
        ("packing", True, True),
        ("gradient_checkpointing", False, False),
    ],
)
def test_what_a_person_writes_means_what_it_seems(key: str, written: Any, value: Any):
    assert FIELDS[key].read(written) == value


def test_prompts_with_lines_ended_as_on_windows_stay_one_prompt_each():
    field = FIELDS["sample_prompts"]
    shown = field.shown({"sample_prompts": ["One\r\ntwo", "three\rfour"]})
    assert shown == "One⏎two\nthree⏎four"
    assert field.read(shown) == ["One\ntwo", "three\nfour"]


@pytest.mark.parametrize("values", [{}, {"lora": None}, {"lora": [1], "dataset": "x"}])
def test_a_draft_without_a_setting_shows_an_empty_field(values: dict[str, Any]):
    for field in FIELDS.values():
        assert field.shown(values) in ("", None)


def test_nonsense_is_shown_as_it_is_written_so_that_it_can_be_corrected():
    values = {"learning_rate": ["a", {"b": 1}], "sample_prompts": "just one", "max_steps": True}
    assert FIELDS["learning_rate"].shown(values) == "a, {'b': 1}"
    assert FIELDS["sample_prompts"].shown(values) == "just one"
    assert FIELDS["max_steps"].shown(values) == "true"


KINDS = {
    "gradient_checkpointing": [("auto", "auto"), ("yes", True), ("no", False)],
    "adapter": [("lora", "lora"), ("dora", "dora"), ("none", "none")],
    "objective": [("sft", "sft"), ("dpo", "dpo"), ("kto", "kto")],
}


@pytest.mark.parametrize("key", KINDS)
def test_a_setting_of_a_few_values_is_a_choice_of_them(key: str):
    assert FIELDS[key].kind == "choice"
    assert list(FIELDS[key].choices) == KINDS[key]


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS.keys())
def test_every_choice_makes_a_recipe_and_every_flag_is_one(field: Field):
    for _, value in field.choices:
        assert at(make_recipe(put(field.key, value)).model_dump(mode="json"), field.key) == value
    is_flag = isinstance(at(Recipe().model_dump(), field.key), bool)
    assert (field.kind == "flag") == is_flag
    assert bool(field.choices) == (field.kind == "choice")


@pytest.mark.parametrize(
    ("key", "kind", "is_prose"),
    [
        ("micro_batch_size", "text", False),
        ("eval_steps", "text", False),
        ("lora.target_modules", "text", False),
        ("dataset.system_prompt", "text", True),
        ("dataset.split", "text", True),
        ("early_stopping_patience", "text", False),
        ("sample_prompts", "lines", False),
        ("lr_scheduler_type", "choice", False),
    ],
)
def test_a_setting_of_any_number_or_text_is_written(key: str, kind: str, is_prose: bool):
    assert (FIELDS[key].kind, FIELDS[key].is_prose) == (kind, is_prose)
