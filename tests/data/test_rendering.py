"""The one renderer: what is trained, where an answer stops, and what chat sees."""

import pytest

from tests.tiny_models import CHAT_TEMPLATE, END, tiny_tokenizer
from tuner.data.rendering import (
    IGNORE_INDEX,
    Rendered,
    Renderer,
    mask_labels,
    merge_system_message,
)
from tuner.data.tokenizer import complete_tokenizer
from tuner.errors import DatasetError, ModelError

MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Marks the words of an answer but not its stop token, as some published templates do.
MARKED_WITHOUT_STOP = MARKED.replace(
    "<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHAT_TEMPLATE
)
# Puts an empty thought before the last answer only, as Qwen3 does: prefixes don't fit.
REWRITES_HISTORY = CHAT_TEMPLATE.replace(
    "{{ message['content'] }}",
    "{% if loop.last and message['role'] == 'assistant' %}<think></think>{% endif %}"
    "{{ message['content'] }}",
)
NO_STOP = CHAT_TEMPLATE.replace("<|im_end|>", "")

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is my order?"},
    {"role": "assistant", "content": "On its way."},
    {"role": "user", "content": "Für mich? 你好"},
    {"role": "assistant", "content": "Ja, natürlich — 你好!"},
]


def renderer(template: str | None, max_length: int | None = None) -> Renderer:
    return Renderer(complete_tokenizer(tiny_tokenizer(template), "tiny"), max_length)


def trained_text(rendered: Rendered) -> list[str]:
    """The trained stretches of the rendered text."""
    stretches: list[list[int]] = []
    last = None
    for index, label in enumerate(rendered.labels):
        if label == IGNORE_INDEX:
            continue
        if last != index - 1:
            stretches.append([rendered.offsets[index][0], 0])
        stretches[-1][1] = rendered.offsets[index][1]
        last = index
    return [rendered.text[start:end] for start, end in stretches]


@pytest.mark.parametrize(
    "template",
    [CHAT_TEMPLATE, MARKED, MARKED_WITHOUT_STOP, NO_SYSTEM],
    ids=["unmarked", "marked", "marked without stop", "no system role"],
)
def test_every_answer_and_its_stop_token_are_trained_and_nothing_else(template):
    rendered = renderer(template).render({"messages": TALK})

    assert trained_text(rendered) == [f"On its way.{END}", f"Ja, natürlich — 你好!{END}"]


def test_a_template_that_rewrites_earlier_turns_trains_the_last_answer_only():
    rendered = renderer(REWRITES_HISTORY).render({"messages": TALK})

    assert trained_text(rendered) == [f"<think></think>Ja, natürlich — 你好!{END}"]


def test_a_model_without_a_template_gets_a_plain_one_that_ends_on_the_stop_token():
    rendered = renderer(None).render({"messages": TALK})

    assert trained_text(rendered) == [f"On its way.{END}", f"Ja, natürlich — 你好!{END}"]
    assert rendered.text.startswith("Be brief.\n\n### Instruction:\nWhere is my order?")


def test_an_answer_that_the_template_leaves_open_is_closed():
    rendered = renderer(NO_STOP).render({"messages": TALK[1:3]})

    assert trained_text(rendered) == [f"On its way.{END}"]
    assert rendered.labels[-1] == rendered.input_ids[-1]


def test_a_document_is_trained_whole_and_ends_on_the_stop_token():
    rendered = renderer(CHAT_TEMPLATE).render({"text": "Clause 1. The parties agree."})

    assert rendered.labels == rendered.input_ids
    assert rendered.text == f"Clause 1. The parties agree.{END}"


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED, None], ids=["plain", "marked", "none"])
def test_training_goes_through_the_very_ids_that_chat_starts_from(template):
    chat = renderer(template)
    training = chat.render({"messages": TALK})

    prompt = chat.prompt_ids(TALK[:-1])

    assert training.input_ids[: len(prompt)] == prompt
    assert training.labels[len(prompt) - 1] == IGNORE_INDEX
    assert training.labels[len(prompt)] != IGNORE_INDEX


def test_stop_tokens_are_the_tokenizers_and_the_one_after_answers():
    tokenizer = tiny_tokenizer(CHAT_TEMPLATE.replace("<|im_end|>", "<|im_start|>"))
    stops = Renderer(complete_tokenizer(tokenizer, "tiny")).stop_token_ids

    assert stops == sorted(tokenizer.convert_tokens_to_ids([END, "<|im_start|>"]))


def test_max_length_keeps_the_start_and_counts_what_it_cut():
    whole = renderer(CHAT_TEMPLATE).render({"messages": TALK})
    cut = renderer(CHAT_TEMPLATE, max_length=20).render({"messages": TALK})

    assert cut.input_ids == whole.input_ids[:20]
    assert cut.labels == whole.labels[:20]
    assert cut.cut == len(whole.input_ids) - 20


def test_a_pairs_answers_follow_the_prompt_and_end_on_the_stop_token():
    chat = renderer(CHAT_TEMPLATE)
    pair = chat.render_pair({"prompt": TALK[:2], "chosen": TALK[2:3], "rejected": TALK[4:5]})

    assert pair.prompt.input_ids == chat.prompt_ids(TALK[:2])
    assert pair.chosen.text == f"On its way.{END}"
    assert pair.rejected is not None and pair.rejected.text.endswith(END)
    assert pair.chosen.trained == len(pair.chosen.input_ids)


def test_batches_render_like_single_rows():
    chat = renderer(CHAT_TEMPLATE)
    rows = [{"messages": TALK}, {"messages": TALK[1:3]}, {"text": "A document."}]

    assert chat.render_batch(rows) == [chat.render(row) for row in rows]


def test_a_conversation_that_the_template_refuses_is_a_sentence():
    template = "{{ raise_exception('roles must alternate') }}"

    with pytest.raises(DatasetError, match="roles must alternate"):
        renderer(template).render({"messages": TALK})


def test_a_tokenizer_without_a_stop_token_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None

    with pytest.raises(ModelError, match="stop token"):
        complete_tokenizer(tokenizer, "tiny")


def test_no_token_is_added_to_a_tokenizer_that_lacks_padding():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    before = len(tokenizer)

    assert complete_tokenizer(tokenizer, "tiny").pad_token == END
    assert len(tokenizer) == before


def test_a_system_message_goes_into_the_first_user_turn_where_there_is_no_such_role():
    merged = merge_system_message(TALK[:3])

    assert merged[0] == {"role": "user", "content": "Be brief.\n\nWhere is my order?"}
    assert merged[1] == TALK[2]


def test_a_token_that_begins_before_the_answer_is_context():
    assert mask_labels([1, 2, 3], [(0, 3), (3, 5), (5, 6)], [(2, 5)]) == [
        IGNORE_INDEX,
        2,
        IGNORE_INDEX,
    ]
