"""The bytes that autograd keeps, counted by autograd itself, beside the arithmetic."""

from contextlib import nullcontext
from typing import Any
from weakref import WeakSet

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.tiny_models import FAMILIES, tiny_config
from tuner.base_models.architecture import read_architecture, target_linears
from tuner.levers import PROVEN, ROTARY, ROW_ATTENTION
from tuner.memory.activations import kept_by_blocks
from tuner.memory.forward import Pass
from tuner.recipe import make_recipe
from tuner.training.speed.levers import choose_levers, pull
from tuner.training.speed.rotary import rotary_in_one
from tuner.training.speed.row_attention import rows_attend_to_themselves
from tuner.training.speed.row_collator import Piece

ROWS, LENGTH, RANK = 2, 96, 8


def model_of(family: str, dtype: torch.dtype = torch.float32, **lora: Any) -> Any:
    """A tiny model with float32 adapters on all its linear layers, or without any."""
    model = AutoModelForCausalLM.from_config(tiny_config(family)).to(dtype)
    if not lora:
        return model.train()
    settings = LoraConfig(target_modules="all-linear", r=RANK, task_type="CAUSAL_LM", **lora)
    adapted = get_peft_model(model, settings)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # with B = 0 the gradient of A would need nothing
            torch.nn.init.normal_(parameter)
    return adapted.train()


class Saved:
    """A tensor that autograd saved; it goes when the graph that it was saved for goes."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor


def kept_by_autograd(model: Any, padded: bool, mixed: bool, **more: Any) -> int:
    """Bytes kept inside the blocks when the forward is done, parameters and their views apart."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: WeakSet[Saved] = WeakSet()
    inside = [False]

    def pack(tensor: torch.Tensor) -> Saved:
        packed = Saved(tensor)
        if inside[0] and tensor.untyped_storage().data_ptr() not in own:
            saved.add(packed)
        return packed

    decoder = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = decoder.base_model.layers
    # The input of the first block has to be differentiable, as it is in every later one.
    layers[0].register_forward_pre_hook(lambda _, args: (args[0].requires_grad_(), *args[1:]))
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
        layer.register_forward_hook(lambda *_: inside.__setitem__(0, False))
    ids = torch.randint(3, 500, (ROWS, LENGTH))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, LENGTH // 2 :] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        output = model(**({"input_ids": ids, "attention_mask": mask} | more), use_cache=False)
    assert output.logits.requires_grad  # what it was computed from is held until here
    storages = [packed.tensor.untyped_storage() for packed in saved]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def estimated(family: str, padded: bool, mixed: bool, **kind: Any) -> int:
    model = read_architecture(tiny_config(family).to_dict())
    full = kind.get("full", False)
    run = Pass(
        rows=ROWS,
        length=LENGTH,
        padded=padded,
        element=2 if mixed else 4,
        targets=[] if full else target_linears(model, "all-linear"),
        rank=RANK,
        **kind,
    )
    return kept_by_blocks(model, run)


@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_adapters_in_float32_keep_what_is_estimated(family, padded):
    kept = kept_by_autograd(model_of(family, lora_alpha=8), padded, mixed=False)

    assert estimated(family, padded, mixed=False) == pytest.approx(kept, rel=0.03)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_adapters_on_a_16_bit_base_keep_what_is_estimated(family):
    kept = kept_by_autograd(model_of(family, torch.bfloat16, lora_alpha=8), False, mixed=True)

    assert estimated(family, False, mixed=True) == pytest.approx(kept, rel=0.03)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_full_fine_tuning_keeps_what_is_estimated(family):
    kept = kept_by_autograd(model_of(family), False, mixed=False)

    assert estimated(family, False, mixed=False, full=True) == pytest.approx(kept, rel=0.03)


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize(
    ("lora", "kind"),
    [({"lora_dropout": 0.1}, {"dropout": True}), ({"use_dora": True}, {"dora": True})],
    ids=["dropout", "dora"],
)
def test_what_else_adapters_can_do_is_estimated(lora, kind, mixed):
    model = model_of("llama", torch.bfloat16 if mixed else torch.float32, lora_alpha=8, **lora)
    kept = kept_by_autograd(model, False, mixed)

    assert estimated("llama", False, mixed, **kind) == pytest.approx(kept, rel=0.05)


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) & set(PROVEN)))
def test_a_pass_by_the_levers_keeps_what_is_estimated(family, mixed):
    kept, levers = kept_with_levers(family, mixed, {})

    assert estimated(family, False, mixed, levers=levers) == pytest.approx(kept, rel=0.03)


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
@pytest.mark.parametrize(
    ("settings", "lora", "kind"),
    [
        ({"lora": {"lora_dropout": 0.1}}, {"lora_dropout": 0.1}, {"dropout": True}),
        ({"adapter": "dora"}, {"use_dora": True}, {"dora": True}),
        ({"objective": "dpo"}, {}, {}),
        ({"levers": ["trained_loss", "row_attention"]}, {}, {}),
    ],
    ids=["dropout", "dora", "dpo", "two levers"],
)
def test_a_pass_by_some_of_the_levers_keeps_what_is_estimated(family, settings, lora, kind, mixed):
    kept, levers = kept_with_levers(family, mixed, settings, **lora)

    assert estimated(family, False, mixed, levers=levers, **kind) == pytest.approx(kept, rel=0.05)


def kept_with_levers(
    family: str, mixed: bool, settings: dict[str, Any], **lora: Any
) -> tuple[int, frozenset[str]]:
    """Bytes kept by rows without padding, and the levers by which they went."""
    model = model_of(family, torch.bfloat16 if mixed else torch.float32, lora_alpha=8, **lora)
    levers = choose_levers(
        model, make_recipe({"dtype": "bfloat16" if mixed else "float32", **settings})
    )
    pull(model, levers)
    with rotary_in_one(model) if ROTARY in levers else nullcontext():
        if ROW_ATTENTION not in levers:
            return kept_by_autograd(model, False, mixed), levers.on
        pieces = [Piece(LENGTH * row, LENGTH) for row in range(ROWS)]
        rows = {"pieces": pieces, "attention_mask": None}
        ids = torch.randint(3, 500, (1, ROWS * LENGTH))
        positions = torch.arange(LENGTH).repeat(1, ROWS)
        with rows_attend_to_themselves(model):
            kept = kept_by_autograd(
                model, False, mixed, input_ids=ids, position_ids=positions, **rows
            )
    return kept, levers.on
