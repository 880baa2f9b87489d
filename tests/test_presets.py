"""The presets: each a recipe that runs, with data written for it, and prompts that test it."""

import ast
import json
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from tuner import presets
from tuner.data.formats import recognise
from tuner.data.prepare import prepare_dataset
from tuner.data.rendering import Renderer
from tuner.data.tokenizer import load_tokenizer
from tuner.errors import RecipeError
from tuner.presets import load_preset, preset_names
from tuner.recipe import load_recipe, make_recipe, with_settings
from tuner.starter import STARTER_DIR

NAMES = ["chatbot", "code", "legal", "medical"]
TIERS = ["builtin", "cpu", "gpu-16gb", "gpu-24gb"]
SIMILAR = 0.35  # word 3-grams in common, of all that two texts have

# What the article that this product implements trains for each task, on one 24 GB card.
ARTICLE = {
    "chatbot": ("mistralai/Mistral-7B", "nf4"),
    "code": ("bigcode/starcoder2", "none"),
    "medical": ("meta-llama/Llama", "none"),
    "legal": ("microsoft/Phi", "nf4"),
}

# The first row of each Hub data set, as its viewer shows it, shortened.
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ALPACA = {"instruction": "Add.", "input": "1, 2", "output": "3"}
HUB_ROWS = {
    "HuggingFaceH4/no_robots": {
        "prompt": "Hi",
        "prompt_id": "f1",
        "messages": TURNS,
        "category": "Chat",
    },
    "HuggingFaceH4/ultrachat_200k": {"prompt": "Hi", "prompt_id": "f1", "messages": TURNS},
    "sahil2801/CodeAlpaca-20k": ALPACA,
    "iamtarun/python_code_instructions_18k_alpaca": {**ALPACA, "prompt": "Below is… Add. 1, 2. 3"},
    "FreedomIntelligence/medical-o1-reasoning-SFT": {
        "Question": "Why?",
        "Complex_CoT": "Hm.",
        "Response": "So.",
    },
    "openlifescienceai/medmcqa": {
        "id": "e9",
        "question": "Which?",
        "opa": "One",
        "opb": "Two",
        "opc": "Three",
        "opd": "Four",
        "cop": 1,
        "choice_type": "single",
        "exp": "Two, since…",
        "subject_name": "Anatomy",
        "topic_name": None,
    },
    "FiscalNote/billsum": {"text": "SECTION 1.", "summary": "Amends.", "title": "A bill"},
}


@pytest.fixture(params=NAMES)
def preset(request) -> presets.Preset:
    return load_preset(request.param)


def rows_of(name: str) -> list[dict]:
    path = presets.PRESETS_DIR / "data" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def text_of(row: dict) -> str:
    turns = [message["content"] for message in row.get("messages", [])]
    return "\n".join(turns or row.values())


# Recipes


def test_the_presets_are_the_four_tasks():
    assert preset_names() == NAMES


def test_a_preset_is_a_recipe_file_that_names_itself(preset):
    recipe = load_recipe(presets.PRESETS_DIR / f"{preset.name}.yaml")
    assert recipe == preset.recipe()
    assert recipe.preset == preset.name


def test_a_preset_runs_as_it_stands_on_the_built_in_model_and_its_own_data(preset, repository):
    recipe = preset.recipe()
    assert recipe.base_model == "starter"
    assert recipe.quantization == "none"
    assert recipe.dataset.source == f"presets/data/{preset.name}.jsonl"
    assert (repository / recipe.dataset.source).is_file()
    assert not Path(recipe.dataset.source).is_absolute()


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_is_a_valid_recipe_with_known_good_defaults(preset, tier):
    recipe = preset.recipe(tier)
    assert recipe.batch_size == 16
    assert recipe.lora.target_modules == "all-linear"
    assert (recipe.lora.lora_alpha, recipe.lora.lora_dropout) == (32, 0)
    assert recipe.max_grad_norm == (0.3 if recipe.quantization == "nf4" else 1.0)
    assert (recipe.base_model == "starter") == (tier == "builtin")
    assert recipe.learning_rate <= 5e-4 or tier == "builtin"


def test_the_tiers_are_the_same_everywhere(preset):
    assert list(preset.about.hardware) == TIERS
    assert preset.about.hardware["builtin"].settings == {}


def test_the_24_gb_tier_trains_what_the_article_does(preset):
    recipe = preset.recipe("gpu-24gb")
    family, quantization = ARTICLE[preset.name]
    assert recipe.base_model.startswith(family)
    assert recipe.quantization == quantization


def test_a_gated_model_is_announced(preset):
    for tier in preset.about.hardware.values():
        if str(tier.settings.get("base_model")).startswith("meta-llama/"):
            assert "gated" in tier.needs


def test_settings_can_follow_a_tier():
    values = load_preset("code").values_for("gpu-24gb")
    recipe = make_recipe(with_settings(values, {"r": 8, "max_steps": 3}))
    assert (recipe.lora.r, recipe.max_steps) == (8, 3)
    assert load_preset("code").recipe("gpu-24gb").lora.r == 64


# Names and files that are wrong


@pytest.mark.parametrize("name", ["chatbt", "../chatbot", "/etc/passwd", "", "data/chatbot", "."])
def test_an_unknown_preset_is_refused(name):
    with pytest.raises(RecipeError, match="There is no preset"):
        load_preset(name)


def test_the_nearest_preset_and_tier_are_named():
    with pytest.raises(RecipeError, match="Did you mean chatbot"):
        load_preset("chatbt")
    with pytest.raises(RecipeError, match="Did you mean gpu-16gb"):
        load_preset("code").recipe("gpu16")


def write_preset(folder: Path, text: str) -> None:
    about = (
        "about: {title: T, icon: t, description: D, needs: N, metric: M,"
        " sample_data: {rows: 1, licence: Apache-2.0}, hardware: {builtin: {needs: N},"
    )
    (folder / "mine.yaml").write_text(text.replace("ABOUT", about), encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_steps: 1\n", "about: title is missing"),
        ("ABOUT cpu: {settings: {lr: 1}, needs: N}}}\n", "Did you mean learning_rate"),
        ("ABOUT cpu: {settings: {r: many}, needs: N}}}\n", "lora.r='many' cannot be used"),
        ("ABOUT cpu: {setings: {}, needs: N}}}\n", "hardware.cpu.setings is not"),
        ("ABOUT }, colour: red}\n", "colour is not"),
        ("about: {hardware: {cpu: {needs: ''}}}\n", "hardware.cpu.needs='' cannot be used"),
    ],
)
def test_a_broken_preset_file_is_said_to_be_one(tmp_path, monkeypatch, text, said):
    monkeypatch.setattr(presets, "PRESETS_DIR", tmp_path)
    write_preset(tmp_path, text)
    with pytest.raises(RecipeError, match=re.escape(said)):
        load_preset("mine").recipe("cpu")


# What a person is told


def test_about_says_what_it_is_for_in_single_sentences(preset):
    about = preset.about
    for sentence in (about.description, about.needs, *(t.needs for t in about.hardware.values())):
        assert sentence.endswith(".")
        assert len(sentence) < 100
    assert len(about.icon) == 1


@pytest.mark.parametrize("name", ["medical", "legal"])
def test_where_an_answer_could_harm_there_is_a_notice(name):
    assert f"not {name} advice" in str(load_preset(name).about.notice)


def test_hub_data_sets_are_read_as_they_should_be(preset):
    assert preset.about.hub_datasets
    for dataset in preset.about.hub_datasets:
        row = HUB_ROWS[dataset.id]
        found = recognise(list(row), [row], dataset.settings().columns, "sft")
        messages = found.convert(row)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert messages[-1]["content"] in {"Hello", "3", "So.", "Two, since…", "Amends."}
        assert "Below is" not in messages[0]["content"]


def test_licences_that_forbid_commercial_use_are_known():
    datasets = {d.id: d for name in NAMES for d in load_preset(name).about.hub_datasets}
    assert [name for name, d in datasets.items() if d.non_commercial] == ["HuggingFaceH4/no_robots"]


# Sample data and prompts


def test_the_sample_data_is_as_long_as_it_is_said_to_be(preset):
    assert len(rows_of(preset.name)) == preset.about.sample_data.rows >= 150
    assert preset.about.sample_data.licence == "Apache-2.0"


def examples_of(preset: presets.Preset, folder: Path) -> list[dict]:
    """The sample data as a run reads it, trained and held-out rows together."""
    recipe = preset.recipe()
    prepare_dataset(recipe.dataset, recipe.objective, folder)
    return [
        json.loads(line)
        for side in ("train", "eval")
        for line in (folder / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_every_sample_row_is_recognised_and_kept_wherever_it_is_started(
    preset, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    examples = examples_of(preset, tmp_path / "data")
    assert len(examples) == preset.about.sample_data.rows
    systems = {example["messages"][0]["content"] for example in examples}
    assert systems == {preset.recipe().dataset.system_prompt}
    assert all(example["messages"][-1]["role"] == "assistant" for example in examples)


def test_every_sample_row_fits_the_practice_model_whole(preset, tmp_path):
    renderer = Renderer(load_tokenizer(str(STARTER_DIR)), preset.recipe().max_length)
    for rendered in renderer.render_batch(examples_of(preset, tmp_path / "data")):
        assert rendered.cut == 0
        assert rendered.trained > 1


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def similar_pairs(texts: list[str]) -> list[tuple[float, str, str]]:
    """Pairs whose 3-grams overlap too much; only texts that share one are ever compared."""
    grams = [trigrams(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, found in enumerate(grams):
        for gram in found:
            holders[gram].append(number)
    shared = Counter(pair for same in holders.values() for pair in combinations(same, 2))
    overlaps = (
        (count / (len(grams[a]) + len(grams[b]) - count), texts[a], texts[b])
        for (a, b), count in shared.items()
    )
    return sorted(found for found in overlaps if found[0] >= SIMILAR)


def test_no_two_sample_rows_say_the_same():
    assert similar_pairs([text_of(row) for name in NAMES for row in rows_of(name)]) == []


def test_the_search_for_similar_rows_finds_some():
    cat, dog = "The cat sat on the mat all day.", "The dog lay under the table all night."
    assert len(similar_pairs([cat, dog, cat + " Yes.", dog.upper()])) == 2


def test_sample_prompts_are_new_to_the_model(preset):
    prompts = preset.recipe().sample_prompts
    assert 8 <= len(set(prompts)) == len(prompts) <= 12
    seen = [" ".join(text_of(row).casefold().split()) for row in rows_of(preset.name)]
    for prompt in prompts:
        assert not any(" ".join(prompt.casefold().split()) in text for text in seen)
    questions = [text_of({**row, "output": "", "answer": ""}) for row in rows_of(preset.name)]
    assert similar_pairs([*questions, *prompts]) == similar_pairs(questions)


def looks_like_python(text: str) -> bool:
    """A line that only Python has: JavaScript and Go put braces there, Java a semicolon."""
    line = r"^(async )?def \w+\(.*|^class \w+.*:$|^from [\w.]+ import .*\w$|^import [\w., ]+$"
    return bool(re.search(line, text, flags=re.MULTILINE))


def test_the_python_answers_of_the_code_preset_parse():
    answers = [row["output"] for row in rows_of("code") if looks_like_python(row["output"])]
    assert len(answers) > 80
    for answer in answers:
        ast.parse(answer)
