"""Answers of a batch: each is its prompt's own, whoever else is in the batch or leaves it."""

import inspect
from contextlib import nullcontext

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.chat.tuned import load_plain
from tests.tiny_models import FAMILIES, TOKENS, tiny_model, tiny_tokenizer
from tuner.chat.generation import Decoder, Prompt, generate
from tuner.chat.voices import Sampling
from tuner.errors import ModelError

# Longer than the sliding window of the tiny Gemmas, a single token, and something between.
PROMPTS = [[3 + n % 500 for n in range(140)], [77], list(range(40, 60))]
GREEDY = Sampling(12, temperature=0)
HYBRIDS = {
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_n_groups": 1,
        "mamba_expand": 2,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 128,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bloom": {"n_layer": 2, "n_head": 4},  # takes no position_ids
    "mixtral": {"num_local_experts": 4},
}
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_plain(tiny_model(tmp_path_factory.mktemp("base")))


def answer(model, prompts, sampling=GREEDY, stops=(), cancelled=lambda _: False):
    """Text and last piece of each row."""
    samplings = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
    asked = [Prompt(*pair) for pair in zip(prompts, samplings, strict=True)]
    texts, last = [""] * len(prompts), [None] * len(prompts)
    plan = lambda rows: nullcontext()  # noqa: E731
    for piece in generate(model, tiny_tokenizer(), asked, stops, plan, cancelled):
        assert last[piece.row] is None or not last[piece.row].done
        texts[piece.row] += piece.text
        last[piece.row] = piece
    assert all(piece.done for piece in last)
    return texts, last


def transformers_text(model, prompt, tokens=12, stops=()) -> str:
    ids = torch.tensor([prompt])
    stopping = {"eos_token_id": list(stops)} if stops else {"min_new_tokens": tokens}
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        **stopping,
    )
    return tiny_tokenizer().decode(output[0, len(prompt) :], skip_special_tokens=True)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_greedy_rows_of_all_lengths_equal_transformers_own_answers(family, tmp_path):
    model = load_plain(tiny_model(tmp_path, family))
    texts, _ = answer(model, PROMPTS, Sampling(24, temperature=0), stops=[1])

    for text, prompt in zip(texts, PROMPTS, strict=True):
        assert text == transformers_text(model, prompt, 24, stops=[1])


@pytest.mark.parametrize("family", sorted(HYBRIDS))
def test_rows_equal_their_separate_runs_also_where_the_past_is_a_state(family):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SHAPE | HEADS | TOKENS | HYBRIDS[family]))
    model = AutoModelForCausalLM.from_config(config).eval()
    limits = [Sampling(tokens, temperature=0) for tokens in (3, 12, 12)]  # the first leaves early

    texts, _ = answer(model, PROMPTS, limits)

    for text, prompt, limit in zip(texts, PROMPTS, limits, strict=True):
        assert text == answer(model, [prompt], limit)[0][0]


def test_padding_changes_logits_by_rounding_only(model):
    batch = Decoder(model, PROMPTS).prefill(nullcontext())

    for row, prompt in enumerate(PROMPTS):
        alone = Decoder(model, [prompt]).prefill(nullcontext())[0]
        torch.testing.assert_close(batch[row], alone, rtol=0, atol=1e-5)


def test_sampled_rows_equal_their_separate_runs(model):
    samplings = [Sampling(20, temperature=1.0, seed=seed, top_p=0.9) for seed in (1, 2, 3)]

    together, _ = answer(model, PROMPTS, samplings)

    alone = [answer(model, [p], s)[0][0] for p, s in zip(PROMPTS, samplings, strict=True)]
    assert together == alone
    assert len(set(together)) == 3


def test_a_stop_token_ends_its_row_alone_and_is_not_shown(model):
    wanted, _ = answer(model, [PROMPTS[0], PROMPTS[2]])
    stop = Decoder(model, PROMPTS[2:]).prefill(nullcontext()).argmax().item()

    texts, last = answer(model, [PROMPTS[0], PROMPTS[2]], stops=[stop])

    assert texts == [wanted[0], ""]
    assert [piece.reason for piece in last] == ["length", "stop token"]
    assert last[1].tokens == 0


def test_cancelling_rows_leaves_the_others_text_unchanged(model):
    wanted, _ = answer(model, [*PROMPTS, PROMPTS[1]])
    asked = {"times": 0}

    def cancelled(row: int) -> bool:
        asked["times"] += 1
        return row == 3 or (row == 0 and asked["times"] > 15)

    texts, last = answer(model, [*PROMPTS, PROMPTS[1]], cancelled=cancelled)

    assert [piece.reason for piece in last] == ["cancelled", "length", "length", "cancelled"]
    assert texts[1:3] == wanted[1:3]
    assert wanted[0].startswith(texts[0]) and 0 < last[0].tokens < 12
    assert (texts[3], last[3].tokens) == ("", 0)


def test_rows_leave_the_batch_once_half_of_it_is_done(model, monkeypatch):
    sizes = []
    forward = model.forward

    def counted(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    counted.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(model, "forward", counted)
    limits = [Sampling(tokens, temperature=0) for tokens in (2, 3, 5, 6)]
    answer(model, [PROMPTS[1]] * 4, limits)

    assert sizes == [4, 4, 4, 2, 2, 1]


def test_no_room_for_a_token_is_an_empty_answer(model):
    texts, last = answer(model, PROMPTS[:1], Sampling(0))

    assert (texts, last[0].reason) == ([""], "length")


def test_a_model_without_a_key_value_cache_is_refused_by_its_family():
    config = AutoConfig.for_model("mamba", **(SHAPE | TOKENS | {"state_size": 8}))

    with pytest.raises(ModelError, match="mamba models keep their past in a form of their own"):
        answer(AutoModelForCausalLM.from_config(config), PROMPTS)
