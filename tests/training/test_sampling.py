"""What a model in training answers is what it would answer, and costs the training nothing."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.tiny_models import tiny_model
from tuner.data.rendering import Renderer
from tuner.data.tokenizer import load_tokenizer
from tuner.starter import STARTER_DIR
from tuner.training.sampling import Sampler, likeliest
from tuner.training.speed.lora_linear import fuse_lora

PROMPTS = [
    "Hello, who are you?",
    "Goodbye!",
    "Please tell me which of these colours is the colour of the sky: red, blue or green?",
]


@pytest.fixture(params=["plain", "adapter", "fused adapter"])
def model(request):
    """The practice model, which knows how to end an answer."""
    base = AutoModelForCausalLM.from_pretrained(STARTER_DIR, dtype=torch.float32)
    if request.param == "plain":
        return base.eval()
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    if request.param == "fused adapter":
        fuse_lora(adapted)
    return adapted.eval()


@pytest.fixture
def renderer() -> Renderer:
    return Renderer(load_tokenizer(str(STARTER_DIR)))


def alone(model, renderer, prompt: str, most: int) -> str:
    """By transformers' own generate, each prompt by itself."""
    ids = torch.tensor([renderer.prompt_ids([{"role": "user", "content": prompt}])])
    output = model.generate(
        input_ids=ids, max_new_tokens=most, do_sample=False, eos_token_id=renderer.stop_token_ids
    )
    return renderer.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_answers_are_those_of_generate_for_each_prompt_by_itself(model, renderer):
    answers = Sampler(renderer, None, 24).answer(model, PROMPTS)

    assert answers == [alone(model, renderer, prompt, 24) for prompt in PROMPTS]
    assert len({len(answer) for answer in answers}) > 1  # they ended one by one


def test_an_answer_has_no_more_tokens_than_asked_for(model, renderer):
    ids = [renderer.prompt_ids([{"role": "user", "content": prompt}]) for prompt in PROMPTS]
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model

    endless = likeliest(bare, ids, [], 5)

    assert [len(tokens) for tokens in endless] == [5, 5, 5]


def test_a_model_trains_after_it_answered_as_if_it_had_not(model, renderer):
    ids = torch.tensor([renderer.prompt_ids([{"role": "user", "content": PROMPTS[2]}])])
    model.train()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    before, state = gradients(), torch.get_rng_state()
    Sampler(renderer, "Be brief.", 8).answer(model, PROMPTS)

    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))


def test_a_stop_is_not_kept_waiting_by_samples(model, renderer):
    asked = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 3

    assert Sampler(renderer, None, 500).answer(model, PROMPTS, cancelled) == []
    assert len(asked) < 10


def test_a_model_that_keeps_its_past_in_another_form_answers_too(tmp_path, monkeypatch):
    folder = tiny_model(tmp_path)
    renderer = Renderer(load_tokenizer(str(folder)))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    expected = Sampler(renderer, None, 6).answer(model, PROMPTS)
    monkeypatch.setattr(type(model), "_is_stateful", True)  # as Mamba says of itself

    assert Sampler(renderer, None, 6).answer(model, PROMPTS) == expected
