"""Every family that people fine-tune trains with LoRA and with NF4, saves, re-loads, generates."""

import pytest
import torch
from datasets import Dataset
from peft import PeftModel

from tests.tiny_models import FAMILIES, tiny_model
from tuner.base_models.lookup import find_base_model
from tuner.data.rendering import Renderer
from tuner.data.tokenized import tokenize
from tuner.data.tokenizer import load_tokenizer
from tuner.models.loading import load_base
from tuner.recipe import Recipe, make_recipe
from tuner.training import model as models
from tuner.training.sampling import Sampler
from tuner.training.trainer import build_trainer

CPU = torch.device("cpu")


def recipe(folder, quantization: str) -> Recipe:
    return make_recipe(
        {
            "base_model": str(folder),
            "quantization": quantization,
            "dtype": "float32",
            "max_length": 128,
            "batch_size": 4,
            "micro_batch_size": 2,
            "gradient_checkpointing": False,
            "optim": "adamw_torch_fused",
            "learning_rate": 1e-2,
            "max_steps": 3,
            "eval_steps": 3,
            "save_steps": 3,
        }
    )


def rows() -> Dataset:
    talks = [
        [
            {"role": "user", "content": f"Where is order {number}?"},
            {"role": "assistant", "content": f"Order {number} is on its way."},
        ]
        for number in range(8)
    ]
    return Dataset.from_list(
        [{"messages": talk, "source": {"file": "t", "line": i}} for i, talk in enumerate(talks)]
    )


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_family_trains_saves_reloads_and_generates(family, quantization, tmp_path):
    settings = recipe(tiny_model(tmp_path, family), quantization)
    base = find_base_model(settings.base_model)
    renderer = Renderer(load_tokenizer(str(base.folder)), settings.max_length)
    tokens, _ = tokenize(rows(), renderer)
    model = load_base(settings, base, torch.float32, CPU)
    before = models.hash_base_weights(model)
    model = models.add_adapter(model, settings)
    trainer = build_trainer(
        settings, model, renderer.tokenizer, tokens, tokens.select([0]), tmp_path, []
    )
    models.adapters_in_float32(model)

    trainer.try_batch([tokens[0], tokens[1]])
    trainer.train()

    assert models.hash_base_weights(model) == before
    assert bool(models.quantized_modules(model)) == (quantization == "nf4")
    reloaded = PeftModel.from_pretrained(
        load_base(settings, base, torch.float32, CPU), str(tmp_path / "step-3")
    ).eval()
    ids = torch.tensor([tokens[0]["input_ids"]])
    with torch.no_grad():
        tuned = model.eval()(input_ids=ids).logits
        again = reloaded(input_ids=ids).logits
        with model.disable_adapter():
            base_logits = model(input_ids=ids).logits
    torch.testing.assert_close(again, tuned, rtol=0, atol=1e-5)
    assert (tuned - base_logits).abs().max() > 1e-3
    answers = Sampler(renderer, None, 5).answer(reloaded, ["Where is order 3?", "Why?"])
    assert len(answers) == 2
