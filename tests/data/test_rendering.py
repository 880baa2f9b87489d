"""The one renderer: what is trained, where an answer stops, and what chat sees."""

import pytest
from tokenizers import normalizers, pre_tokenizers, processors

from tests.tiny_models import CHAT_TEMPLATE, END, tiny_tokenizer
from tuner.data import rendering
from tuner.data.answer_text import AHEAD, Written
from tuner.data.chat_template import Span
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
SEVENS = (
    "{% if '7' in messages[0]['content'] %}{{ raise_exception('no sevens') }}{% endif %}"
    + CHAT_TEMPLATE
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
    chat = renderer("{{ messages[0]['content'] }}{% generation %}{{ messages[1]['content'] }}"
                    "{% endgeneration %}<|im_end|>")  # fmt: skip
    turns = [{"role": "user", "content": "wri"}, {"role": "assistant", "content": "tten notice"}]
    rendered = chat.render({"messages": turns})

    first = rendered.labels.index(next(label for label in rendered.labels if label >= 0))
    assert rendered.offsets[first - 1][0] < 3 < rendered.offsets[first - 1][1]
    assert rendered.offsets[first][0] > 3
    assert rendered.labels[first:] == rendered.input_ids[first:]


def by_every_offset(ids: list[int], offsets: list[Span], spans: list[Span]) -> list[int]:
    """Labels as they are defined: a token is trained if it begins inside an answer."""
    inside = [any(start <= begin < end for start, end in spans) for begin, _ in offsets]
    return [index if hit else IGNORE_INDEX for index, hit in zip(ids, inside, strict=True)]


TOKENIZERS = {
    "bytes": (pre_tokenizers.ByteLevel(add_prefix_space=False), None, None),
    "offsets without white space": (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        None,
        processors.ByteLevel(trim_offsets=True),
    ),
    "spaces as signs": (pre_tokenizers.Metaspace(prepend_scheme="first"), None, None),
    "signs taken apart": (pre_tokenizers.ByteLevel(), normalizers.NFKD(), None),
    "white space left out": (pre_tokenizers.Whitespace(), normalizers.Lowercase(), None),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED, MARKED_WITHOUT_STOP, NO_STOP])
def test_labels_are_those_that_the_place_of_every_token_gives(kind, template):
    tokenizer = tiny_tokenizer(template)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer, normalizer, post_processor = TOKENIZERS[kind]
    if normalizer:
        backend.normalizer = normalizer
    if post_processor:
        backend.post_processor = post_processor
    chat = Renderer(complete_tokenizer(tokenizer, "tiny"))
    rows = [{"messages": TALK}, {"messages": TALK[1:3]}, {"text": " ﬁne ½ e\u0301\n\n 👩‍🚀 "}]

    texts = chat.write(rows)

    for (ids, ranges), (text, spans) in zip(chat.encode(texts), texts, strict=True):
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        expected = by_every_offset(ids.tolist(), offsets["offset_mapping"], spans)
        assert mask_labels(ids, ranges).tolist() == expected
        assert any(label >= 0 for label in expected)


@pytest.mark.parametrize(
    "template", [CHAT_TEMPLATE, MARKED, NO_SYSTEM, REWRITES_HISTORY, NO_STOP, SEVENS, None]
)
def test_many_are_written_as_each_by_itself_and_what_is_refused_is_told_for_its_row(template):
    rows = [
        {"messages": [{"role": "user", "content": f"Number {n}?"}, *TALK[2 + n % 3 :]]}
        for n in range(2 * AHEAD + 7)
    ] + [{"messages": TALK}, {"text": "7"}]
    rows = [row for row in rows if "text" in row or row["messages"][-1]["role"] == "assistant"]
    chat = renderer(template)

    many = chat.write(rows)

    alone = [chat.write([row])[0] for row in rows]
    assert list(map(told, many)) == list(map(told, alone))
    refused = [text for text in many if isinstance(text, DatasetError)]
    assert len(refused) == (sum("7" in str(row) for row in rows[:-1]) if template == SEVENS else 0)


def told(text: Written | DatasetError) -> Written | str:
    return str(text) if isinstance(text, DatasetError) else text


def test_many_pairs_are_written_as_each_by_itself():
    chat = renderer(CHAT_TEMPLATE)
    rows = [
        {"prompt": TALK[:2], "chosen": TALK[2:3], "rejected": TALK[4:5]},
        {"prompt": TALK[1:4], "completion": TALK[4:5]},
    ] * AHEAD

    assert chat.write_pairs(rows) == [chat.write_pairs([row])[0] for row in rows]


def test_cutting_and_padding_that_others_switched_on_touch_no_text():
    chat = renderer(CHAT_TEMPLATE)
    before = chat.render({"messages": TALK})
    chat.tokenizer(["a", "a longer text"], truncation=True, max_length=2, padding=True)

    assert chat.render({"messages": TALK}) == before
    chat.tokenizer(["a", "a longer text"], truncation=True, max_length=2, padding=True)
    assert chat.encode(chat.write([{"messages": TALK}]))[0].ids.tolist() == before.input_ids


def test_texts_of_any_length_are_encoded_alike(monkeypatch):
    chat = renderer(CHAT_TEMPLATE)
    texts = chat.write([{"text": "word " * n} for n in (1, 400, 3, 2, 900)])
    whole = [ids.tolist() for ids, _ in chat.encode(texts)]
    monkeypatch.setattr(rendering, "ENCODED_CHARACTERS", 100)

    assert [ids.tolist() for ids, _ in chat.encode(texts)] == whole
