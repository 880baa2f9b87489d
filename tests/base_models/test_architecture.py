"""What a config.json says of a model, beside the model that transformers builds from it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny_models import FAMILIES, tiny_config
from tuner.base_models import families
from tuner.base_models.architecture import read_architecture, target_linears
from tuner.errors import ModelError, RecipeError

# Parameters that the makers state, or that the weights on the Hub hold.
KNOWN = {
    "llama-2-7b": ({"model_type": "llama", "intermediate_size": 11008}, 6_738_415_616),
    "mistral-7b": ({"model_type": "mistral", "intermediate_size": 14336}, 7_241_732_096),
    "phi-3-mini": (
        {
            "model_type": "phi3",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "vocab_size": 32064,
        },
        3_821_079_552,
    ),
    "starcoder2-3b": (
        {
            "model_type": "starcoder2",
            "hidden_size": 3072,
            "intermediate_size": 12288,
            "num_hidden_layers": 30,
            "num_attention_heads": 24,
            "vocab_size": 49152,
        },
        3_030_371_328,
    ),
    "qwen2.5-0.5b": (
        {
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        494_032_768,
    ),
    "gemma-2-2b": (
        {
            "model_type": "gemma2",
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "vocab_size": 256000,
        },
        2_614_341_888,
    ),
}
SEVEN_B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}


def build(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("config", "parameters"), KNOWN.values(), ids=KNOWN.keys())
def test_known_models_have_their_known_parameters(config, parameters):
    assert read_architecture(SEVEN_B | config).parameters == parameters


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_parameters_and_linear_layers_are_those_of_transformers(family):
    config = tiny_config(family)
    model = build(config)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }

    found = read_architecture(config.to_dict())

    assert found.exact
    assert found.parameters == sum(p.numel() for p in model.parameters())
    expected = {
        f"{found.family.blocks}.{block}.{linear.name}": (linear.inputs, linear.outputs, linear.bias)
        for block in range(found.blocks)
        for linear in found.linears
    }
    heads = {"lm_head", "embed_out"}
    assert expected == {
        name: (layer.in_features, layer.out_features, layer.bias is not None)
        for name, layer in layers.items()
        if name not in heads
    }


def test_every_family_in_the_table_is_one_that_transformers_builds():
    for family in families.FAMILIES:
        model = build(AutoConfig.for_model(family, **small(family)))
        config = model.config.to_dict()

        assert read_architecture(config).parameters == sum(p.numel() for p in model.parameters())


def small(family: str) -> dict[str, int]:
    """Two layers of the family's own defaults, narrow."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 320}
    sizes |= {"pad_token_id": 0}
    if family == "gpt_bigcode":
        return {"n_embd": 128, "n_inner": 256, "n_layer": 2, "n_head": 4, "vocab_size": 320}
    if family == "granitemoehybrid":
        sizes |= {"num_local_experts": 0, "shared_intermediate_size": 256}
        return sizes | {"layer_types": ["attention", "attention"]}
    return sizes


@pytest.mark.parametrize(
    "target_modules",
    ["all-linear", ["q_proj", "v_proj"], ["0.mlp.down_proj"], r".*layers\.1\..*(up|down)_proj"],
    ids=str,
)
def test_adapters_go_where_peft_puts_them(target_modules):
    config = tiny_config("llama")
    settings = LoraConfig(target_modules=target_modules, task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_config(config), settings)
    layers = [name for name, _ in adapted.named_modules() if name.endswith(".lora_A.default")]

    found = target_linears(read_architecture(config.to_dict()), target_modules)

    assert {linear.name: blocks for linear, blocks in found} == {
        name: sum(f".{name}." in layer for layer in layers)
        for name in {layer.split(".", 5)[-1].removesuffix(".lora_A.default") for layer in layers}
    }


def test_an_unknown_family_is_taken_for_a_llama_and_says_so():
    found = read_architecture({**tiny_config("llama").to_dict(), "model_type": "novelty"})

    assert not found.exact
    assert found.parameters == read_architecture(tiny_config("llama").to_dict()).parameters


def test_a_config_without_its_width_is_refused():
    with pytest.raises(ModelError, match="hidden_size"):
        read_architecture({"model_type": "llama"})


def test_target_modules_that_are_no_expression_are_refused():
    model = read_architecture(tiny_config("llama").to_dict())
    with pytest.raises(RecipeError, match=r"lora\.target_modules=\( is no regular expression"):
        target_linears(model, "(")
