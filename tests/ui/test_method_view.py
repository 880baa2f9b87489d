"""Methods on the page: the figures are memory.estimate's, and the words say what they mean."""

from dataclasses import replace

import pytest

from tuner.base_models.lookup import STARTER, BaseModel, find_base_model
from tuner.device import Device
from tuner.memory.estimate import Estimate, estimate
from tuner.quantities import gigabytes, share
from tuner.recipe import Recipe, make_recipe
from tuner.service import estimating
from tuner.service.estimating import RowSizes
from tuner.ui.draft import METHODS
from tuner.ui.method_view import (
    NAMES,
    MethodFigures,
    advice,
    figures_of_methods,
    fit_words,
    labels,
    summary_html,
    time_words,
)

MACHINE = Device("cpu", "a machine", 16 * 10**9, 12 * 10**9, True, 4, 1)
SIZES = RowSizes(rows=200, mean_tokens=90.0, longest=300)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """The same machine at every look: what is free of a real one changes in between."""
    monkeypatch.setattr(estimating, "this_device", lambda: MACHINE)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return find_base_model(STARTER)


def small_machine(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    device = replace(MACHINE, available_bytes=available)
    monkeypatch.setattr(estimating, "this_device", lambda: device)


def changed(recipe: Recipe, **settings: str) -> Recipe:
    return make_recipe({**recipe.model_dump(), **settings})


def estimate_of(found: dict[str, MethodFigures], method: str) -> Estimate:
    figures = found[method].estimate
    assert figures is not None
    return figures


@pytest.mark.parametrize("begun_as", METHODS)
def test_the_figures_of_a_method_are_those_of_the_recipe_with_that_method(base, begun_as):
    recipe = make_recipe({"max_length": 256, "batch_size": 8, **METHODS[begun_as]})
    found = figures_of_methods(recipe, base, SIZES)
    assert list(found) == list(METHODS)
    for method, settings in METHODS.items():
        assert found[method].estimate == estimate(
            changed(recipe, **settings), base, MACHINE, longest=300, rows=200, mean_tokens=90.0
        )
        assert found[method].problem == ""


def test_rows_are_counted_at_most_as_long_as_max_length_leaves_them(base):
    long = RowSizes(rows=10, mean_tokens=900.0, longest=5000)
    recipe = make_recipe({"max_length": 64})
    assert figures_of_methods(recipe, base, long)["lora"].estimate == estimate(
        recipe, base, MACHINE, longest=5000, rows=10, mean_tokens=64
    )


def test_before_the_rows_are_known_there_is_memory_but_no_time(base):
    found = estimate_of(figures_of_methods(make_recipe({}), base, None), "lora")
    assert found == estimate(make_recipe({}), base, MACHINE)
    assert found.estimated_seconds is None
    assert time_words(found) == "not known before the data is"


def test_full_fine_tuning_trains_all_and_an_adapter_little(base):
    found = figures_of_methods(make_recipe({}), base, SIZES)
    full, lora = estimate_of(found, "full"), estimate_of(found, "lora")
    assert full.trainable_parameters == full.total_parameters == base.parameters
    assert lora.trainable_parameters < lora.total_parameters
    assert estimate_of(found, "qlora").trainable_parameters == lora.trainable_parameters


def test_a_dora_recipe_is_estimated_as_dora_with_every_base_and_as_full_without(base):
    recipe = make_recipe({"adapter": "dora"})
    found, plain = (
        figures_of_methods(one, base, SIZES) for one in (recipe, make_recipe({"adapter": "lora"}))
    )
    for method in ("qlora", "lora8", "lora"):
        settings = {**METHODS[method], "adapter": "dora"}
        assert found[method].estimate == estimate(
            changed(recipe, **settings), base, MACHINE, longest=300, rows=200, mean_tokens=90.0
        )
        assert (
            estimate_of(found, method).trainable_parameters
            > estimate_of(plain, method).trainable_parameters
        )
    assert found["full"] == plain["full"]


def test_a_method_that_cannot_be_estimated_says_why_and_the_others_are(base):
    recipe = make_recipe({"lora": {"target_modules": ["no_such_layer"]}})
    found = figures_of_methods(recipe, base, SIZES)
    assert found["full"].estimate is not None
    for method in ("qlora", "lora8", "lora"):
        assert found[method].estimate is None
        assert found[method].problem.startswith("lora.target_modules=['no_such_layer'] names no")
    assert found["lora"].problem in dict(map(reversed, labels(found)))["lora"]
    assert summary_html(recipe, found, SIZES, 10) == ""


def test_a_label_says_the_verdict_in_words_with_its_numbers(base):
    found = figures_of_methods(make_recipe({}), base, SIZES)
    for label, method in labels(found):
        figures = estimate_of(found, method)
        name, numbers, words = label.split("\n")
        assert name == NAMES[method][0]
        assert numbers.startswith(f"✓ fits: {gigabytes(figures.estimated_memory_bytes)} of ")
        assert f"of {gigabytes(figures.available_memory_bytes)} · ≈ " in numbers
        trained = share(figures.trainable_parameters, figures.total_parameters)
        assert words == f"{trained} of the parameters train. {NAMES[method][1]}"


def test_without_figures_a_label_has_a_name_and_what_it_is():
    assert [method for _, method in labels(None)] == list(METHODS)
    assert labels(None)[0] == ("QLoRA 4-bit\nBase in NF4. Least memory.", "qlora")


def test_what_does_not_fit_is_told_in_words_before_it_is_tried(base, monkeypatch):
    whole = estimate_of(figures_of_methods(make_recipe({}), base, SIZES), "lora")
    for available, mark in [(560 * 10**6, "✕ will not fit"), (MACHINE.available_bytes, "✓ fits")]:
        small_machine(monkeypatch, available)
        found = figures_of_methods(make_recipe({}), base, SIZES)
        assert fit_words(estimate_of(found, "lora")).startswith(f"{mark}: ")
        html = summary_html(make_recipe({}), found, SIZES, 10)
        assert f"tuner-fit tuner-{mark[2:].replace(' ', '-')}" in html
    assert whole.verdict == "fits"


def test_a_tight_fit_is_called_so(base):
    found = estimate_of(figures_of_methods(make_recipe({}), base, SIZES), "lora")
    assert fit_words(replace(found, verdict="tight")).startswith("△ tight: ")


@pytest.mark.parametrize("method", METHODS)
def test_the_summary_is_that_of_the_recipes_own_method(base, method):
    recipe = make_recipe({"learning_rate": 1e-5, **METHODS[method]})
    found = figures_of_methods(recipe, base, SIZES)
    html = summary_html(recipe, found, SIZES, 1234)
    own = estimate_of(found, method)
    assert fit_words(own) in html
    assert time_words(own).startswith("≈ ") and time_words(own) in html
    assert "200 train · 1,234 held out" in html
    assert f"{own.micro_batch_size} of 16 rows at once" in html
    trained = share(own.trainable_parameters, own.total_parameters)
    assert f"<dd>{trained} of " in html
    assert "tuner-warning" not in html


def test_the_summary_is_silent_about_rows_that_are_not_known(base):
    found = figures_of_methods(make_recipe({}), base, None)
    html = summary_html(make_recipe({}), found, None, 0)
    assert "held out" not in html and "not known before the data is" in html


def test_gradient_checkpointing_is_told_where_it_is_used(base):
    for setting, told in [(True, True), (False, False)]:
        recipe = make_recipe({"gradient_checkpointing": setting})
        found = figures_of_methods(recipe, base, SIZES)
        assert ("gradient checkpointing" in summary_html(recipe, found, SIZES, 1)) is told


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"adapter": "none", "learning_rate": 2e-4}, "2e-05"),
        ({"adapter": "none", "learning_rate": 2e-3}, "0.0002"),
        ({"adapter": "none", "learning_rate": 1e-4}, None),
        ({"adapter": "none", "learning_rate": 2e-5}, None),
        ({"adapter": "lora", "learning_rate": 2e-3}, None),
        ({"adapter": "dora", "learning_rate": 2e-3}, None),
    ],
)
def test_full_fine_tuning_with_an_adapters_learning_rate_is_advised_against(base, settings, remedy):
    recipe = make_recipe(settings)
    told = advice(recipe)
    assert bool(told) is (remedy is not None)
    html = summary_html(recipe, figures_of_methods(recipe, base, SIZES), SIZES, 10)
    assert ("tuner-warning" in html) is bool(told)
    if remedy:
        assert told[0].endswith(f"takes about a tenth, {remedy}.")
        assert told[0] in html
