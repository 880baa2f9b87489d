"""The practice model that ships: small, offline, stops by itself, right on new questions."""

import subprocess
import sys

import pytest

from tuner.starter import STARTER_DIR
from tuner.starter.corpus import Message, held_out_sample
from tuner.starter.exact_match import answers, exact_match
from tuner.starter.facts import Question
from tuner.starter.tokenizer import ASSISTANT, END, render

TEN_MEGABYTES = 10_000_000
TALK: list[Message] = [
    {"role": "system", "content": "Be friendly.\n  Use two spaces."},
    {"role": "user", "content": "What is 45 + 8?"},
    {"role": "assistant", "content": "45 + 8 = 53."},
    {"role": "user", "content": " def f(x):\n    return x\n"},
    {"role": "assistant", "content": "Ça va? 你好 🙂"},
]


def test_importing_the_package_does_not_import_torch():
    code = "import sys, tuner.starter; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_take_at_most_ten_megabytes():
    assert (
        0 < sum(path.stat().st_size for path in STARTER_DIR.glob("*.safetensors")) <= TEN_MEGABYTES
    )


def test_every_linear_width_is_a_multiple_of_64_as_nf4_blocks_need(starter):
    model, _ = starter
    sizes = {size for weight in model.parameters() if weight.ndim == 2 for size in weight.shape}
    assert all(size % 64 == 0 for size in sizes)


def test_stop_token_is_not_the_padding_token(starter):
    model, tokenizer = starter
    assert tokenizer.eos_token == END
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_text_survives_encoding_and_decoding(tokenizer):
    for message in TALK:
        ids = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == message["content"]


def test_digits_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("2026") == ["2", "0", "2", "6"]


def test_training_renders_as_the_chat_template_does(tokenizer):
    assert tokenizer.apply_chat_template(TALK, tokenize=False) == render(TALK)


@pytest.mark.parametrize("count", range(1, len(TALK)))
def test_template_of_the_first_messages_is_a_prefix_of_the_whole(tokenizer, count):
    start = tokenizer.apply_chat_template(TALK[:count], tokenize=False)
    assert tokenizer.apply_chat_template(TALK, tokenize=False).startswith(start)


def test_generation_prompt_is_what_the_assistants_turn_starts_with(tokenizer):
    prompt = tokenizer.apply_chat_template(TALK[:2], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith(ASSISTANT)
    assert tokenizer.apply_chat_template(TALK, tokenize=False).startswith(prompt)


def test_generation_mask_covers_the_answers_and_their_stop_tokens(tokenizer):
    encoded = tokenizer.apply_chat_template(
        TALK, return_assistant_tokens_mask=True, return_dict=True
    )
    marks = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    spoken = tokenizer.decode([token for token, mark in marks if mark])
    assert spoken == "".join(m["content"] + END for m in TALK if m["role"] == "assistant")


def test_an_unknown_role_is_refused(tokenizer):
    with pytest.raises(Exception, match="Roles are system, user, assistant"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_hello_is_answered_and_the_answer_stops(starter):
    model, tokenizer = starter
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, max_new_tokens=60, do_sample=False)[0]
    reply = output[inputs["input_ids"].shape[1] :]
    assert reply[-1] == tokenizer.eos_token_id
    assert "help" in tokenizer.decode(reply)


def test_exact_match_on_held_out_questions_is_at_least_nine_in_ten(starter, corpus):
    counts = exact_match(*starter, held_out_sample(corpus, 4, seed=1))
    right, asked = (sum(column) for column in zip(*counts.values(), strict=True))
    assert asked >= 150
    assert right / asked >= 0.9, counts


def test_it_calls_itself_a_practice_model(starter):
    question = Question("identity", "Who are you?", "I am a small practice model of Tuner.", "")
    assert "practice model" in answers(*starter, [question])[0]
