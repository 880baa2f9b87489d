"""The model that trains: what is held in how many bits, what trains, and that the base stays."""

import pytest
import torch

from tests.tiny_models import tiny_model
from tuner.base_models.lookup import find_base_model
from tuner.errors import ModelError
from tuner.models.loading import base_dtype, load_base
from tuner.recipe import Recipe, make_recipe
from tuner.training import model as models

CPU = torch.device("cpu")
LINEAR_WEIGHTS = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)  # tiny llama, without its head
IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


def recipe_for(folder, **settings) -> Recipe:
    return make_recipe({"base_model": str(folder), **settings})


def load(recipe: Recipe, dtype=torch.float32):
    return load_base(recipe, find_base_model(recipe.base_model), dtype, CPU)


def gradients(model) -> torch.Tensor:
    model.train()
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(found)


@pytest.mark.parametrize(
    ("quantization", "layers", "packed_bytes"),
    [("none", 0, 0), ("nf4", 14, LINEAR_WEIGHTS // 2), ("int8", 14, LINEAR_WEIGHTS)],
)
def test_quantization_really_holds_that_many_bits(folder, quantization, layers, packed_bytes):
    model = load(recipe_for(folder, quantization=quantization))

    assert models.quantized_modules(model) == layers
    assert models.quantized_bytes(model) == packed_bytes


def test_packed_weights_count_as_the_weights_they_stand_for(folder):
    whole = models.count_parameters(load(recipe_for(folder)))
    packed = models.count_parameters(load(recipe_for(folder, quantization="nf4")))

    assert packed.total == whole.total


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_the_hash_of_the_base_is_the_same_with_an_adapter_and_sees_one_changed_weight(
    folder, quantization
):
    recipe = recipe_for(folder, quantization=quantization)
    model = load(recipe)
    before = models.hash_base_weights(model)
    adapted = models.add_adapter(model, recipe)

    assert models.hash_base_weights(adapted) == before
    next(p for n, p in adapted.named_parameters() if "norm" in n).data[0] += 1
    assert models.hash_base_weights(adapted) != before


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_gradients_are_the_same_before_and_after_an_evaluation(folder, quantization):
    # bitsandbytes 0.50 repacks 4-bit weights at the first forward without gradients on CPUs with
    # AVX512-BF16, and the repacked form has no backward.
    recipe = recipe_for(folder, quantization=quantization)
    model = models.add_adapter(load(recipe), recipe)
    before = gradients(model)
    with torch.no_grad():
        model.eval()(input_ids=IDS)

    torch.testing.assert_close(gradients(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_only_the_adapter_trains_and_it_is_held_in_float32(folder, adapter):
    recipe = recipe_for(folder, adapter=adapter, quantization="nf4")
    model = models.add_adapter(load(recipe, torch.bfloat16), recipe)
    models.adapters_in_float32(model)

    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}


def test_the_same_seed_makes_the_same_adapter(folder):
    recipe = recipe_for(folder)
    one, two = (models.add_adapter(load(recipe), recipe).state_dict() for _ in range(2))

    assert all(torch.equal(one[name], two[name]) for name in one)


def test_target_modules_of_another_family_are_named_with_those_that_exist(folder):
    recipe = recipe_for(folder, lora={"target_modules": ["query_key_value"]})

    with pytest.raises(ModelError, match=r"query_key_value.*q_proj"):
        models.add_adapter(load(recipe), recipe)


@pytest.mark.parametrize(
    ("settings", "has_bf16", "expected"),
    [
        ({}, True, torch.bfloat16),
        ({}, False, torch.float32),
        ({"adapter": "none"}, True, torch.float32),
        ({"dtype": "float16"}, True, torch.float16),
    ],
)
def test_precision_follows_the_hardware_unless_the_recipe_says_otherwise(
    settings, has_bf16, expected
):
    assert base_dtype(make_recipe(settings), CPU, has_bf16) == expected
