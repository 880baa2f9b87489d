"""The last layer's MLP sees trained positions only, and what it says of them stays the same."""

import pytest
import torch

from tests.training.speed.tiny_trainers import ROWS, our_step, our_trainer, recipe_of, row, tiny
from tuner.levers import PROVEN
from tuner.training.speed.last_layer import last_layer_of, narrow
from tuner.training.speed.trained_loss import trained_first

LLAMAS = {"llama", "mistral", "starcoder2", "qwen2", "qwen3", "smollm3"}
TRAINED = 3 + 20 + 64 + 1 + 19  # of ROWS; no position predicts the first token of a row


class Lines:
    """How many positions go into each MLP of a model, forward by forward."""

    def __init__(self, model):
        self.seen = [[] for _ in model.model.layers]
        for layer, seen in zip(model.model.layers, self.seen, strict=True):
            layer.mlp.register_forward_pre_hook(
                lambda _, given, seen=seen: seen.append(given[0].shape[:-1].numel())
            )


@pytest.mark.parametrize("family", PROVEN)
def test_only_layers_that_are_written_as_llamas_are_narrowed(family):
    model = tiny(family)
    last = last_layer_of(model)
    assert (last is not None) == (family in LLAMAS)
    assert last is None or last is model.model.layers[-1]


@pytest.mark.parametrize("family", sorted(LLAMAS))
def test_a_narrowed_layer_says_of_its_positions_what_the_whole_one_does(family):
    model, ids = tiny(family).eval(), torch.arange(3, 27).view(2, 12)
    kept = torch.tensor([23, 0, 7, 12])
    whole = model.model(ids).last_hidden_state.flatten(0, 1)
    narrow(last_layer_of(model))
    narrowed = model.model(ids, kept=kept).last_hidden_state
    torch.testing.assert_close(narrowed, whole[kept].unsqueeze(0))
    torch.testing.assert_close(model.model(ids).last_hidden_state.flatten(0, 1), whole)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_takes_trained_positions_through_the_last_mlp_and_all_through_the_others(
    tmp_path, checkpointing
):
    base = tiny()
    lines = Lines(base)
    recipe = recipe_of(
        levers=["trained_loss", "row_attention"], gradient_checkpointing=checkpointing
    )
    our_trainer(base, recipe, tmp_path).train()
    passes = 2 if checkpointing else 1
    assert lines.seen == [[sum(len(r["input_ids"]) for r in ROWS)] * passes, [TRAINED] * passes]


def test_checkpointing_leaves_its_gradients_as_they_are(tmp_path):
    plain, again = (
        our_step(tiny(), ROWS, tmp_path, levers="auto", gradient_checkpointing=checkpointing)
        for checkpointing in (False, True)
    )
    assert again.loss == plain.loss
    for name, gradient in plain.gradients.items():
        torch.testing.assert_close(again.gradients[name], gradient)


@pytest.mark.parametrize(
    ("levers", "lora"),
    [
        (["trained_loss"], {}),
        (["trained_loss", "row_attention"], {"lora_dropout": 0.1}),
    ],
)
def test_where_rows_keep_their_padding_the_last_layer_works_for_all(tmp_path, levers, lora):
    base = tiny()
    lines = Lines(base)
    recipe = recipe_of(levers=levers, lora={"r": 4, "lora_alpha": 8, **lora})
    our_trainer(base, recipe, tmp_path).train()
    assert lines.seen[0] == lines.seen[1]


def test_a_batch_that_trains_nothing_is_a_step_without_a_gradient(tmp_path):
    rows = [row(25, 0), row(30, 0)]
    step = our_step(tiny(), rows, tmp_path, levers="auto")
    assert step.loss == 0.0
    assert not any(bool(gradient.any()) for gradient in step.gradients.values())


def test_trained_positions_come_first_and_others_make_up_one_of_few_counts():
    targets = torch.full((2, 50), -100)
    targets[0, 40:], targets[1, :5] = 1, 1
    trained = [*range(40, 50), *range(50, 55)]
    assert trained_first(targets).tolist() == trained
    few = trained_first(targets, few_counts=True).tolist()
    assert few[:15] == trained and len(few) == len(set(few)) == 64


def test_there_are_never_more_of_them_than_positions_and_one_at_least():
    assert trained_first(torch.ones(1, 20), few_counts=True).tolist() == list(range(20))
    assert trained_first(torch.full((1, 20), -100)).tolist() == [0]
