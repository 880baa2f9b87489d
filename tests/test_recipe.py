"""Recipes: what goes in comes out, and what is wrong is said in full."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tuner.errors import RecipeError
from tuner.recipe import (
    DatasetSettings,
    LoraSettings,
    Recipe,
    full_key,
    known_keys,
    load_recipe,
    make_recipe,
    parse_setting,
    read_yaml,
    to_yaml,
    with_settings,
)


def problems_of(values: dict) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        make_recipe(values)
    return caught.value.problems


# In and out


def test_a_recipe_survives_yaml(tmp_path):
    recipe = make_recipe(
        {
            "base_model": "org/model",
            "learning_rate": "2e-4",
            "micro_batch_size": 4,
            "lora": {"r": 8, "target_modules": ["q_proj", "v_proj"]},
            "dataset": {
                "source": "données.csv",
                "columns": {"prompt": ["question", "context"], "answer": "reply"},
                "system_prompt": "Two lines:\n- one\n- two",
            },
            "sample_prompts": ["Ça va ?", "yes", "2026-01-01", "# not a comment"],
        }
    )
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_every_default_is_written_out():
    written = yaml.safe_load(to_yaml(Recipe()))
    assert set(written) == set(Recipe.model_fields)
    assert set(written["lora"]) == set(LoraSettings.model_fields)
    assert set(written["dataset"]) == set(DatasetSettings.model_fields)
    assert written["lora"]["r"] == 16
    assert written["learning_rate"] == 2e-4


def test_yaml_keeps_the_order_of_the_class():
    assert list(yaml.safe_load(to_yaml(Recipe()))) == list(Recipe.model_fields)


def test_a_presets_about_block_is_no_setting(tmp_path):
    (tmp_path / "preset.yaml").write_text("max_steps: 5\nabout: {title: Chatbot}\n")
    assert load_recipe(tmp_path / "preset.yaml") == Recipe(max_steps=5)


def test_recipes_are_frozen():
    recipe = Recipe()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.max_steps = 5
    with pytest.raises(ValidationError, match="frozen"):
        recipe.lora.r = 5


def test_every_setting_says_what_it_does():
    sections = (Recipe, LoraSettings, DatasetSettings)
    silent = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        # A section is described by its own class.
        if not field.description and not hasattr(field.annotation, "model_fields")
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "holds no settings"),
        ("", "holds no settings"),
        ("a: [1\n", "cannot be read as YAML"),
        ("!!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
    ],
)
def test_a_file_without_settings_is_refused(tmp_path, text, said):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        read_yaml(tmp_path / "recipe.yaml")


def test_a_missing_file_is_named():
    with pytest.raises(RecipeError, match=r"no recipe file nowhere\.yaml"):
        load_recipe(Path("nowhere.yaml"))


# What is wrong


def test_all_problems_are_reported_at_once():
    said = problems_of(
        {
            "max_length": "long",
            "lora": {"r": 0, "rank": 8},
            "quantization": "nf5",
            "nonsense": 1,
            "adapter": "dora",
            "objective": "dpo",
            "packing": True,
        }
    )
    assert said == [
        "quantization='nf5' cannot be used: it must be 'nf4', 'int8' or 'none'.",
        "lora.r=0 cannot be used: it must be 1 or more.",
        "lora.rank is not a recipe setting. Did you mean lora.r?",
        "max_length='long' cannot be used: it must be a whole number.",
        "nonsense is not a recipe setting. See `python -m tuner train --help`.",
        "packing is for objective=sft, not dpo. Set packing to false.",
    ]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("max_lenght", "max_length"),
        ("lr", "learning_rate"),
        ("base", "base_model"),
        ("batch", "batch_size"),
        ("epochs", "num_train_epochs"),
        ("rank", "lora.r"),
        ("r", "lora.r"),
        ("alpha", "lora.lora_alpha"),
        ("lora_alpha", "lora.lora_alpha"),
        ("max_seq_length", "max_length"),
        ("data", "dataset.source"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key, meant):
    assert problems_of({key: 1}) == [f"{key} is not a recipe setting. Did you mean {meant}?"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"micro_batch_size": "x"}, "micro_batch_size='x' cannot be used: it must be a whole"),
        ({"micro_batch_size": 0}, "it must be 1 or more or 'auto'."),
        ({"packing": "perhaps"}, "packing='perhaps' cannot be used: it must be true or false."),
        ({"learning_rate": 0}, "learning_rate=0 cannot be used: it must be more than 0."),
        ({"learning_rate": float("nan")}, "it must be a finite number."),
        ({"max_length": 8.5}, "it must be a whole number."),
        ({"lora": 5}, "lora=5 cannot be used: it must be a group of settings"),
        ({"lora": {"target_modules": 5}}, "it must be text (in quotes) or a list."),
        ({"lora": {"target_modules": [5]}}, "it must be text or a list of text"),
        ({"revision": 12345678}, "revision=12345678 cannot be used: it must be text (in quotes)."),
        ({"sample_prompts": "hello"}, "sample_prompts='hello' cannot be used: it must be a list."),
        ({"dataset": {"columns": {"prompt": 3}}}, "dataset.columns.prompt=3 cannot be used"),
        ({"dataset": {"eval_fraction": 1}}, "it must be less than 1."),
    ],
)
def test_a_value_that_cannot_be_used_is_one_plain_sentence(values, said):
    (sentence,) = problems_of(values)
    assert said in sentence


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"adapter": "none", "quantization": "nf4"}, "trains all weights"),
        ({"micro_batch_size": 32}, "larger than batch_size=16"),
        ({"micro_batch_size": 3}, "not a multiple"),
        ({"packing": True, "objective": "kto"}, "packing is for objective=sft"),
        ({"early_stopping_patience": 2, "dataset": {"eval_fraction": 0}}, "needs held-out rows"),
    ],
)
def test_contradictions_are_refused_with_a_remedy(values, said):
    assert any(said in sentence for sentence in problems_of(values))


def test_contradictions_are_told_apart():
    values = {"adapter": "none", "quantization": "int8", "packing": True, "objective": "dpo"}
    assert len(problems_of(values)) == 2


def test_no_contradiction_is_invented_for_a_setting_that_cannot_be_used():
    assert problems_of({"batch_size": "many", "micro_batch_size": 32}) == [
        "batch_size='many' cannot be used: it must be a whole number."
    ]


# --set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=60", 60),
        ("k=2e-4", 2e-4),
        ("k=1E5", 1e5),
        ("k=-1.5e+3", -1500.0),
        ("k=.5", 0.5),
        ("k=0.05", 0.05),
        ("k=true", True),
        ("k=null", None),
        ("k=", None),
        ("k=nf4", "nf4"),
        ("k=a=b", "a=b"),
        ("k=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("k=org/model", "org/model"),
        ("k='8'", "8"),
        ("k={", "{"),
        (" k = 8 ", 8),
        ("k={prompt: q}", {"prompt": "q"}),
        ("k=You are: brief # and kind", "You are: brief # and kind"),
        ("k=# 1", "# 1"),
        ("k=- a", "- a"),
        ("k=2026-01-01", "2026-01-01"),
    ],
)
def test_a_set_value_is_what_it_seems(text, value):
    assert parse_setting(text) == ("k", value)


@pytest.mark.parametrize("text", ["k", "", "=3", " = 3"])
def test_set_without_key_or_value_is_refused(text):
    with pytest.raises(RecipeError, match="is not key=value"):
        parse_setting(text)


def test_settings_are_merged_into_nested_values_and_leave_them_untouched():
    values = {"lora": {"r": 4, "lora_alpha": 8}}
    merged = with_settings(values, {"r": 64, "dataset.columns.prompt": "q", "max_steps": 9})
    assert merged == {
        "lora": {"r": 64, "lora_alpha": 8},
        "dataset": {"columns": {"prompt": "q"}},
        "max_steps": 9,
    }
    assert values == {"lora": {"r": 4, "lora_alpha": 8}}


def test_a_section_left_empty_in_yaml_can_still_be_set():
    assert with_settings({"lora": None}, {"lora.r": 8}) == {"lora": {"r": 8}}


def test_all_unknown_settings_are_reported_at_once():
    with pytest.raises(RecipeError) as caught:
        with_settings({}, {"lr": 1, "max_steps": 2, "rank": 3})
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("key", "full"),
    [
        ("r", "lora.r"),
        ("lora.r", "lora.r"),
        ("source", "dataset.source"),
        ("seed", "seed"),  # also in dataset: the top level wins
        ("dataset.columns.answer", "dataset.columns.answer"),
        ("nonsense", None),
        ("lora.nonsense", None),
    ],
)
def test_a_key_without_its_section_is_found_where_there_is_one(key, full):
    assert full_key(key) == full


def test_known_keys_name_sections_and_what_is_in_them():
    keys = known_keys()
    assert {"lora", "lora.r", "dataset.columns", "max_length"} <= set(keys)
    assert len(keys) == len(set(keys))
