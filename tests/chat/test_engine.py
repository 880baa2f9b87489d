"""One base, many voices: what each says is what it says alone, and the base stays as it was."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.chat.tuned import save_adapter, with_peft
from tests.tiny_models import tiny_model
from tuner.chat.engine import Engine
from tuner.chat.voices import Base, Row, Sampling, Voice
from tuner.errors import ModelError
from tuner.training.model import hash_base_weights

GREEDY = Sampling(16, temperature=0)
ASKED = ({"role": "user", "content": "Where is my order?"},)
LONGER = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Does the treatment lower blood pressure in adults?"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def voices(folder, tmp_path_factory):
    """The base, LoRA of two kinds, DoRA, and a full fine-tune."""
    place = tmp_path_factory.mktemp("tuned")
    other = tiny_model(place / "full", "llama")
    change_weights(other)
    return [
        Voice("base"),
        Voice("lora", save_adapter(folder, place / "lora", seed=1)),
        Voice("full", model=str(other)),
        Voice("rslora", save_adapter(folder, place / "rs", 2, r=4, use_rslora=True)),
        Voice("dora", save_adapter(folder, place / "dora", 3, use_dora=True)),
    ]


def change_weights(folder) -> None:
    path = folder / "model.safetensors"
    torch.manual_seed(9)
    tensors = {k: v + 0.05 * torch.randn_like(v) for k, v in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def load(folder, quantization="none", dtype="float32", **settings) -> Engine:
    return Engine(Base(str(folder), None, quantization, dtype), torch.device("cpu"), **settings)


def texts(engine, rows, **settings) -> list[str]:
    found = [""] * len(rows)
    done = set()
    for piece in engine.generate(rows, **settings):
        found[piece.row] += piece.text
        if piece.done:
            done.add(piece.row)
    assert done == set(range(len(rows)))
    return found


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_every_voice_says_in_the_batch_what_it_says_alone(quantization, folder, voices):
    rows = [Row(voice, asked, GREEDY) for voice in voices for asked in (ASKED, LONGER)]
    engine = load(folder, quantization)

    together = texts(engine, rows)

    assert together == [texts(load(folder, quantization), [row])[0] for row in rows]
    assert len(set(together[::2])) == len(voices)  # each has its own answer


def test_answers_are_those_of_plain_peft(folder, voices):
    rows = [Row(voice, LONGER, GREEDY) for voice in voices if voice.adapter]
    found = texts(load(folder), rows)

    for text, row in zip(found, rows, strict=True):
        engine = load(folder)
        ids = torch.tensor([engine.renderer.prompt_ids(LONGER)])
        output = with_peft(engine._base.model, row.voice.adapter).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=16,
            do_sample=False,
            use_cache=True,
            eos_token_id=engine.renderer.stop_token_ids,
            pad_token_id=0,
        )
        decoded = engine.renderer.tokenizer.decode(
            output[0, ids.shape[1] :], skip_special_tokens=True
        )
        assert text == decoded


def test_a_full_fine_tune_says_that_it_answered_in_a_pass_of_its_own(folder, voices):
    rows = [Row(voice, ASKED, GREEDY) for voice in voices[:3]]

    notes = {piece.row: piece.note for piece in load(folder).generate(rows)}

    assert [bool(notes[row]) for row in range(3)] == [False, False, True]


def test_equal_voices_with_one_seed_give_equal_answers_and_other_seeds_others(folder, voices):
    def asked(seed):
        return Row(voices[1], ASKED, Sampling(16, temperature=1.0, seed=seed))

    first, second, other = texts(load(folder), [asked(1), asked(1), asked(2)])

    assert first == second != other


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_answers_and_adapters_leave_the_bases_weights_as_they_were(quantization, folder, voices):
    engine = load(folder, quantization)
    texts(engine, [Row(voices[0], ASKED, GREEDY)])  # after it, 4-bit weights are packed
    before = hash_base_weights(engine._base.model)

    texts(engine, [Row(voice, ASKED, GREEDY) for voice in voices])
    for held in engine.attached():
        engine.detach(held)

    assert hash_base_weights(engine._base.model) == before
    assert engine.attached() == []


def test_an_answer_given_up_half_way_leaves_the_engine_ready(folder, voices):
    rows = [Row(voice, ASKED, GREEDY) for voice in voices[:2]]
    engine = load(folder)
    wanted = texts(engine, rows)

    next(engine.generate(rows))

    assert texts(engine, rows) == wanted


def test_what_was_used_least_recently_goes_when_memory_is_short(folder, voices):
    _, lora, full, rslora, dora = voices
    engine = load(folder, limit_bytes=200_000)
    for voice in (lora, rslora, dora):
        engine.attach(voice.adapter)
    texts(engine, [Row(rslora, ASKED, GREEDY)])
    assert engine.attached() == [lora.adapter, dora.adapter, rslora.adapter]

    texts(engine, [Row(full, ASKED, GREEDY)])

    assert engine.attached() == [full.model]
    assert texts(engine, [Row(lora, ASKED, GREEDY)]) == texts(
        load(folder), [Row(lora, ASKED, GREEDY)]
    )


def test_memory_is_that_of_the_base_and_the_adapters(folder, voices):
    engine = load(folder)
    before = engine.memory_bytes()
    engine.attach(voices[1].adapter)

    weights = (Path(voices[1].adapter) / "adapter_model.safetensors").stat().st_size
    assert engine.memory_bytes() - before == pytest.approx(weights, rel=0.1)


def test_an_adapter_that_is_written_anew_is_read_anew(folder, voices, tmp_path):
    copy = shutil.copytree(voices[1].adapter, tmp_path / "a")
    row = Row(Voice("a", str(copy)), ASKED, GREEDY)
    engine = load(folder)
    before = texts(engine, [row])

    save_adapter(folder, copy, seed=8)

    assert texts(engine, [row]) != before


def test_an_adapter_of_another_base_is_refused_and_the_others_still_answer(
    folder, voices, tmp_path
):
    other = save_adapter(tiny_model(tmp_path, hidden_size=128), tmp_path / "other")
    engine = load(folder)

    with pytest.raises(ModelError, match="Choose the base model that the adapter was trained on"):
        engine.attach(other)

    assert engine.attached() == []
    texts(engine, [Row(voices[1], ASKED, GREEDY)])


def test_a_conversation_longer_than_the_context_is_refused_and_a_long_answer_cut(folder, tmp_path):
    small = tiny_model(tmp_path, context=64)
    engine = load(small)
    room = 64 - len(engine.renderer.prompt_ids(ASKED))
    last = list(engine.generate([Row(Voice("base"), ASKED, Sampling(500, temperature=0))]))[-1]

    assert last.reason == "stop token" or last.tokens == room
    with pytest.raises(ModelError, match=r"the model's context\s+64"):
        texts(engine, [Row(Voice("base"), ({"role": "user", "content": "order " * 99},), GREEDY)])


def test_the_makers_advice_is_the_default(tmp_path):
    folder = tiny_model(tmp_path)
    advice = {"temperature": 0.6, "top_p": 0.95, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(advice))

    assert load(folder).default_sampling == Sampling(temperature=0.6, top_p=0.95)


def test_scores_are_the_log_probabilities_of_each_voice_on_its_own(folder, voices):
    answer = "Let me look that up 👍"
    scores = load(folder).score(LONGER, answer, voices)

    assert "".join(scores.texts) == answer + "<|im_end|>"
    assert scores.names == ("base", "lora", "full", "rslora", "dora")
    engine = load(folder)
    pair = engine.renderer.render_pair(
        {"prompt": [*LONGER], "completion": [{"role": "assistant", "content": answer}]}
    )
    ids = torch.tensor([pair.prompt.input_ids + pair.chosen.input_ids])
    models = {0: engine._base.model, 2: load(voices[2].model)._base.model}
    models |= {n: with_peft(load(folder)._base.model, voices[n].adapter) for n in (1, 3, 4)}
    for number, model in models.items():
        with torch.inference_mode():
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        own = logprobs[len(pair.prompt.input_ids) - 1 : -1]
        wanted = own.gather(-1, torch.tensor(pair.chosen.input_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(scores.logprobs[number]), wanted, rtol=0, atol=1e-4)
    changed = torch.tensor(scores.logprobs[1]) - torch.tensor(scores.logprobs[0])
    assert changed.abs().max() > 0.01
