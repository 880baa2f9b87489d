"""A run in words: true where the files say so, silent where they do not."""

import ast

import pytest
import yaml

from tuner.recipe import make_recipe
from tuner.ui.run_facts import facts, method, result_facts, use_code
from tuner.ui.run_settings import Settings, differences, load_object, load_settings

RESULT = {
    "eval_loss": 1.524,
    "base_eval_loss": 2.31,
    "eval_rows": 40,
    "kept_step": 60,
    "trainable_parameters": 540_000,
    "total_parameters": 135_000_000,
    "seconds": 112.0,
    "tokens_per_second": 812.3,
    "peak_memory_bytes": 1_200_000_000,
    "estimated_memory_bytes": 1_300_000_000,
    "base_weights_unchanged": True,
    "adapter_effect_max_logit_diff": 3.25,
    "adapter_reload_max_logit_diff": 0.0,
}


@pytest.mark.parametrize(
    ("adapter", "quantization", "dtype", "words"),
    [
        ("lora", "nf4", "auto", "QLoRA 4-bit"),
        ("lora", "int8", "auto", "LoRA 8-bit"),
        ("lora", "none", "bfloat16", "LoRA 16-bit"),
        ("lora", "none", "float32", "LoRA 32-bit"),
        ("dora", "none", "auto", "DoRA 16-bit"),
        ("dora", "nf4", "auto", "QDoRA 4-bit"),
        ("none", "none", "auto", "full fine-tuning"),
        ("other", "none", "auto", None),
    ],
)
def test_a_method_is_called_as_the_field_calls_it(adapter, quantization, dtype, words):
    values = {"adapter": adapter, "quantization": quantization, "dtype": dtype}
    assert method(Settings(values)) == words


def test_the_facts_of_a_run_say_what_its_recipe_and_data_are(run):
    report = {"train_rows": 1760, "eval_rows": 40, "duplicates": 3, "bad_row_count": 0}
    report |= {"dropped": {"no answer": {"count": 2, "lines": [1, 2]}}}
    told = dict(facts(load_settings(run), report, "cpu"))
    assert told["Preset"] == "chatbot"
    assert told["Adapter"] == "r 16, lora_alpha 32, on all linear layers"
    assert told["Rows"] == "1,760 to train on, 40 held out"
    assert told["Left out"] == "3 repeated, 2 unusable"
    assert told["Length"] == "3 epochs"
    assert told["Learning rate"] == "0.0002, cosine"
    assert told["Device"] == "cpu"


def test_the_result_says_before_and_after_and_what_was_proven():
    told = dict(result_facts(RESULT))
    assert told["Eval loss"] == "2.31 → 1.52 on 40 held-out rows"
    assert told["Trained"] == "540 K of 135 M parameters (0.4%)"
    assert told["Memory peak"] == "1.2 GB, estimated 1.3 GB"
    assert told["Frozen base"] == "unchanged, bit for bit"
    assert told["Loaded again"] == "the same logits"


def test_a_frozen_base_that_changed_is_not_kept_quiet():
    assert (
        "CHANGED" in dict(result_facts(RESULT | {"base_weights_unchanged": False}))["Frozen base"]
    )


@pytest.mark.parametrize("missing", sorted(RESULT))
@pytest.mark.parametrize("junk", [None, "text", float("nan"), [1], {"a": 1}, -1, True])
def test_a_result_of_another_version_tells_what_it_holds(missing, junk):
    told = result_facts(RESULT | {missing: junk})
    assert len(told) >= 6 and all(isinstance(text, str) for fact in told for text in fact)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- list",
        "just words",
        "a: [unclosed",
        "\x00\x01",
        "lora: 7\ndataset: [1]\nadapter: {a: 1}",
        "base_model: 5\nlearning_rate: fast\nmax_steps: .nan\nbatch_size: true",
        "lora: {r: x, lora_alpha: null}\n? [a, b]\n: 3",
        "[" * 20_000,
    ],
)
def test_a_recipe_edited_into_something_else_still_has_facts(run, text):
    run.recipe_path.write_text(text)
    settings = load_settings(run)
    assert all(isinstance(part, str) for fact in facts(settings, {}, None) for part in fact)
    ast.parse(use_code(settings, is_adapter=True))


def test_a_setting_that_was_edited_into_nonsense_hides_only_itself(run):
    values = yaml.safe_load(run.recipe_path.read_text()) | {"learning_rate": "fast", "extra": 1}
    run.recipe_path.write_text(yaml.safe_dump(values))
    told = dict(facts(load_settings(run), {}, None))
    assert told["Preset"] == "chatbot"
    assert "Learning rate" not in told


def test_files_that_are_gone_or_no_objects_are_empty(run):
    run.recipe_path.unlink()
    assert load_settings(run).flat == {}
    assert load_object(run.result_path) == {}
    run.result_path.write_text("[1]")
    assert load_object(run.result_path) == {}


def test_the_code_that_loads_an_adapter_names_the_base_and_its_revision():
    code = use_code(Settings({"base_model": "org/model", "revision": "abc"}), is_adapter=True)
    assert 'from_pretrained("org/model", revision="abc")' in code
    assert 'PeftModel.from_pretrained(base, "adapter")' in code
    ast.parse(code)


@pytest.mark.parametrize("name", ['x")\nimport os\n("', "\\", "'''", "a\nb", "\u2028", '"'])
def test_a_base_models_name_stays_text_in_the_code(name):
    tree = ast.parse(use_code(Settings({"base_model": name}), is_adapter=True))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert imported == [] and name in texts


def test_a_full_model_is_loaded_without_a_base():
    assert "peft" not in use_code(Settings({"base_model": "org/model"}), is_adapter=False)


def test_secrets_in_a_source_are_not_shown():
    source = "https://me:password@example.org/rows.csv"
    told = dict(facts(Settings({"dataset": {"source": source}}), {}, None))
    assert "password" not in told["Data"]


def test_recipes_are_compared_by_the_settings_that_differ():
    values = [{"lora": {"r": 16}}, {"lora": {"r": 64}, "max_steps": 60}]
    recipes = [Settings(make_recipe(value).model_dump(mode="json")) for value in values]
    assert differences(recipes) == [
        {"setting": "lora.r", "values": ["16", "64"]},
        {"setting": "max_steps", "values": ["–", "60"]},
    ]
