"""One forward for many adapters: equal to peft's, and the base's rows are the base's own."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.chat.tuned import load_plain, save_adapter, with_peft
from tests.tiny_models import FAMILIES, TOKENS, tiny_model
from tuner.chat.adapter_files import read_adapter
from tuner.chat.mixed_lora import MixedLora
from tuner.errors import ModelError
from tuner.training.model import hash_base_weights

IDS = torch.tensor([[7, 8, 9, 10, 11, 12], [12, 30, 40, 50, 60, 70]] * 2)
SIDE_BY_SIDE = (
    {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    {"r": 16, "lora_alpha": 8, "use_rslora": True},
    {"r": 8, "target_modules": r".*\.1\.mlp\.(up|down)_proj", "rank_pattern": {"up_proj": 2}},
    {"r": 2, "alpha_pattern": {"0.self_attn.k_proj": 32}},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


def attached(model, *adapters: str) -> MixedLora:
    mixed = MixedLora(model)
    for number, adapter in enumerate(adapters):
        mixed.attach(str(number), read_adapter(adapter))
    return mixed


@torch.inference_mode()
def logits(model, ids=IDS) -> torch.Tensor:
    return model(input_ids=ids).logits


def mixed_logits(mixed: MixedLora, names, ids=IDS) -> torch.Tensor:
    with mixed.plan(names):
        return logits(mixed.model, ids)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_each_row_is_what_peft_makes_of_it_alone_in_every_family(family, tmp_path):
    folder = tiny_model(tmp_path, family)
    adapter = save_adapter(folder, tmp_path / "a")
    plain, mixed = load_plain(folder), attached(load_plain(folder), adapter)
    base, tuned = logits(plain), logits(with_peft(load_plain(folder), adapter))

    found = mixed_logits(mixed, [None, None, "0", "0"])

    assert (tuned - base).abs().max() > 0.01
    torch.testing.assert_close(found[:2], base[:2], rtol=0, atol=0)
    torch.testing.assert_close(found[2:], tuned[2:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_of_different_kinds_side_by_side_equal_peft(quantization, dtype, folder, tmp_path):
    adapters = [
        save_adapter(folder, tmp_path / str(n), seed=n, **settings)
        for n, settings in enumerate(SIDE_BY_SIDE)
    ]
    mixed = attached(load_plain(folder, quantization, dtype), *adapters)
    peft = with_peft(load_plain(folder, quantization, dtype), *adapters)
    names = [None, "0", "1", "2", "3", "3"]
    ids = IDS[[0, 0, 1, 0, 1, 0]]

    found = mixed_logits(mixed, names, ids)

    with torch.inference_mode():
        asked = ["__base__" if name is None else name for name in names]
        at_once = peft(input_ids=ids, adapter_names=asked).logits
        bases = [load_plain(folder, quantization, dtype) for _ in adapters]
        alone = [logits(with_peft(*pair), ids) for pair in zip(bases, adapters, strict=True)]
    # In 16 bits, peft itself rounds differently alone and in a mixed batch.
    limit = 1e-5 if dtype == torch.float32 and quantization == "none" else 2e-2
    torch.testing.assert_close(found, at_once, rtol=0, atol=limit)
    for row in range(1, 6):
        own = alone[int(names[row])][row]
        torch.testing.assert_close(found[row], own, rtol=0, atol=limit)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_the_base_are_those_of_a_base_that_never_saw_an_adapter(
    quantization, dtype, folder, tmp_path
):
    adapter = save_adapter(folder, tmp_path / "a", r=16)
    mixed = attached(load_plain(folder, quantization, dtype), adapter)
    never = logits(load_plain(folder, quantization, dtype))

    found = mixed_logits(mixed, [None, None, "0", "0"])

    assert torch.equal(found[:2], never[:2])
    assert not torch.equal(found[2:], never[2:])


def test_large_activations_of_a_tuned_row_do_not_reach_the_base_in_8_bits(tmp_path):
    # LLM.int8 chooses the columns that it keeps in 16 bits from all rows of a batch.
    folder = tiny_model(tmp_path)
    adapter = save_adapter(folder, tmp_path / "a", lora_alpha=4096)
    mixed = attached(load_plain(folder, "int8"), adapter)
    never = logits(load_plain(folder, "int8"))

    assert torch.equal(mixed_logits(mixed, [None, None, "0", "0"])[:2], never[:2])


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])  # without and with biases
def test_dora_rows_equal_peft_in_the_same_batch_as_lora_rows(family, quantization, tmp_path):
    folder = tiny_model(tmp_path, family)
    dora = save_adapter(folder, tmp_path / "dora", use_dora=True)
    lora = save_adapter(folder, tmp_path / "lora", seed=1)
    base = load_plain(folder, quantization)
    logits(base)  # in 4 bits its weights are packed from here on
    mixed = attached(base, dora, lora)
    # peft cannot compute DoRA on packed weights, so it gets the same ones unpacked.
    unpacked = load_plain(folder, quantization)
    if quantization == "nf4":
        unpack(unpacked, base)

    found = mixed_logits(mixed, [None, "0", "0", "1"])

    tuned = logits(with_peft(unpacked, dora))
    assert (tuned - logits(base)).abs().max() > 0.01
    torch.testing.assert_close(
        found[1:3], tuned[1:3], rtol=0, atol=1e-5 if quantization == "none" else 2e-2
    )


def unpack(model, packed) -> None:
    """Give a model, as plain linear layers, the weights that 4-bit layers compute with."""
    for name, layer in list(packed.named_modules()):
        if type(layer).__name__ == "Linear4bit":
            with torch.inference_mode():
                identity = torch.eye(layer.in_features)
                weight = layer(identity).T - (0 if layer.bias is None else layer.bias[:, None])
            linear = torch.nn.Linear(*weight.T.shape, bias=layer.bias is not None)
            linear.weight.data = weight.float().clone()
            if layer.bias is not None:
                linear.bias.data = layer.bias.data.float()
            model.set_submodule(name, linear)


def test_attaching_and_detaching_leaves_weights_and_forward_as_they_were(folder, tmp_path):
    model = load_plain(folder)
    before, hashed = logits(model), hash_base_weights(model)
    mixed = attached(model, save_adapter(folder, tmp_path / "a"))
    mixed_logits(mixed, ["0", "0", "0", "0"])
    mixed.detach("0")

    assert torch.equal(logits(model), before)
    assert hash_base_weights(model) == hashed
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_failed_forward_gives_the_layers_their_own_forward_back(folder, tmp_path):
    mixed = attached(load_plain(folder), save_adapter(folder, tmp_path / "a"))

    with pytest.raises(IndexError), mixed.plan(["0"]):
        logits(mixed.model, torch.tensor([[10_000]]))

    assert not any("forward" in module.__dict__ for module in mixed.model.modules())


def test_layers_of_gpt2_which_hold_their_weights_transposed_equal_peft(tmp_path):
    config = AutoConfig.for_model("gpt2", n_embd=32, n_layer=2, n_head=2, **TOKENS)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    adapter = save_adapter(
        tmp_path / "gpt2", tmp_path / "a", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True
    )
    plain = [AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2").eval() for _ in range(2)]

    found = mixed_logits(attached(plain[0], adapter), [None, "0", "0", "0"])

    tuned = logits(with_peft(plain[1], adapter))
    torch.testing.assert_close(found[1:], tuned[1:], rtol=0, atol=1e-5)


def test_an_adapter_of_a_wider_or_of_another_model_is_refused_by_name(folder, tmp_path):
    wider = tiny_model(tmp_path / "wide", hidden_size=128)
    other = tiny_model(tmp_path, "gpt_neox")
    mixed = MixedLora(load_plain(folder))

    for base in (wider, other):
        adapter = save_adapter(base, tmp_path / "a")
        with pytest.raises(ModelError, match="Choose the base model that the adapter was trained"):
            mixed.attach("a", read_adapter(adapter))
