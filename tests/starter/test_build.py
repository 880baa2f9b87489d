"""A build in small: the tokenizer, a few steps of training, and what is written to disk."""

import re

import torch
from safetensors.torch import load_file

from tuner.starter.build import Schedule, new_tokenizer, optimizers_for, train
from tuner.starter.exact_match import load
from tuner.starter.tokenizer import VOCAB_SIZE


def test_a_new_tokenizer_has_the_size_of_the_shipped_one(corpus, tokenizer):
    assert len(new_tokenizer(corpus, seed=0)) == len(tokenizer) == VOCAB_SIZE


def test_every_parameter_is_trained_by_exactly_one_optimizer(starter):
    model, _ = starter
    muon, adamw = (
        [id(weight) for weight in optimizer.param_groups[0]["params"]]
        for optimizer in optimizers_for(model, Schedule())
    )
    assert sorted(muon + adamw) == sorted(id(weight) for weight in model.parameters())
    assert id(model.get_input_embeddings().weight) in adamw


def test_the_rate_rises_to_its_peak_and_falls_to_a_hundredth():
    schedule = Schedule()
    factors = [schedule.factor(step) for step in range(schedule.steps + 1)]
    assert factors.index(max(factors)) in (schedule.warmup_steps - 1, schedule.warmup_steps)
    assert max(factors) == 1
    assert abs(factors[-1] - 0.01) < 1e-9


def test_a_few_steps_lower_the_loss_and_leave_a_model_that_loads(
    corpus, tokenizer, tmp_path, capsys
):
    train(corpus, tokenizer, Schedule(steps=12, batch_tokens=384, warmup_steps=2), tmp_path)
    first, last = map(float, re.findall(r"loss (\S+)", capsys.readouterr().out))
    stored = load_file(tmp_path / "model.safetensors")
    model, again = load(tmp_path)
    assert last < first - 1
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert again.get_vocab() == tokenizer.get_vocab()
