"""Training batches: the answers are learnt, and no conversation looks into its neighbour."""

from itertools import islice

import pytest
import torch

from tuner.starter.corpus import Message
from tuner.starter.packing import Batch, batches, encoded, packed
from tuner.starter.tokenizer import ASSISTANT, END, USER, render

SUM: list[Message] = [
    {"role": "user", "content": "What is 4 + 5?"},
    {"role": "assistant", "content": "4 + 5 = 9."},
]
GREETING: list[Message] = [
    {"role": "system", "content": "Be polite."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I help you?"},
]


@pytest.fixture
def both(tokenizer) -> Batch:
    return packed([encoded(tokenizer, SUM), encoded(tokenizer, GREETING)], 128, 1)


def test_targets_are_the_answers_and_their_stop_tokens(tokenizer):
    _, targets = encoded(tokenizer, [*SUM, *GREETING])
    said = tokenizer.decode([token for token in targets if token != -100])
    assert said == f"4 + 5 = 9.{END}Hello! How can I help you?{END}"


def test_a_target_is_the_next_token(tokenizer):
    ids, targets = encoded(tokenizer, SUM)
    learnt = [(new, old) for new, old in zip(targets, ids[1:], strict=False) if new != -100]
    assert learnt
    assert all(new == old for new, old in learnt)


def test_a_packed_conversation_gets_the_logits_that_it_gets_alone(starter, tokenizer, both):
    model, _ = starter
    inputs = tokenizer(render(GREETING), add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        alone = model(**inputs).logits[0]
        row = model(input_ids=both.input_ids, attention_mask=both.attention_mask()).logits[0]
    torch.testing.assert_close(row[both.conversation[0] == 1], alone, atol=1e-3, rtol=1e-3)


def test_the_end_of_a_row_is_padding_and_teaches_nothing(tokenizer, both):
    empty = both.conversation == -1
    assert set(both.input_ids[empty].tolist()) == {tokenizer.pad_token_id}
    assert set(both.targets[empty].tolist()) == {-100}


def test_a_conversation_that_does_not_fit_waits_for_the_next_row(tokenizer):
    waiting = [encoded(tokenizer, GREETING) for _ in range(3)]
    length = len(waiting[0][0]) * 2 + 1
    row = packed(waiting, length, 1)
    assert sorted(set(row.conversation[0].tolist())) == [-1, 0, 1]
    assert len(waiting) == 1


def test_what_is_longer_than_a_whole_row_is_cut(tokenizer):
    ids, targets = encoded(tokenizer, GREETING)
    row = packed([(ids, targets)], 8, 1)
    assert row.input_ids.tolist() == [ids[:8]]
    assert row.targets.tolist() == [targets[:8]]


def test_every_twenty_fifth_batch_is_one_long_row(corpus, tokenizer):
    shapes = [
        tuple(batch.input_ids.shape) for batch in islice(batches(corpus, tokenizer, 384, 0), 50)
    ]
    assert {place for place, shape in enumerate(shapes, 1) if shape == (1, 2048)} == {25, 50}
    assert set(shapes) == {(3, 128), (1, 384), (1, 2048)}


def test_batches_follow_from_the_seed(corpus, tokenizer):
    first, second, other = (
        next(batches(corpus, tokenizer, 384, seed)).input_ids for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_every_conversation_of_a_batch_begins_with_a_role(corpus, tokenizer):
    batch = next(batches(corpus, tokenizer, 1536, 0))
    starts = batch.conversation.diff(dim=1, prepend=torch.full((12, 1), -1)) > 0
    first = set(tokenizer.convert_ids_to_tokens(batch.input_ids[starts].tolist()))
    assert USER in first
    assert ASSISTANT not in first
    assert len(first) <= 2
