"""Rows one after the other, and in parts: each token once, with the position that it has alone."""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from tests.training.speed.tiny_trainers import recipe_of, row, tiny
from tuner.levers import LEAST_TOKENS
from tuner.training.model import add_adapter
from tuner.training.speed.few_shapes import step_of
from tuner.training.speed.row_collator import (
    BY_KEY,
    BY_WEIGHT,
    Costs,
    Piece,
    RowCollator,
    costs_of,
    parts_of,
    pieces_of,
)

PAD = 511  # no row has it: a token of a row is no padding
IGNORED = -100
COSTS = Costs(trained=0.4, distance=0.01)


def random_rows(seed: int) -> list[dict[str, list[int]]]:
    """Of 1 to 400 tokens, few or many of them trained."""
    numbers = random.Random(seed)
    lengths = [numbers.choice([1, 5, 63, 64, 100, 400]) for _ in range(numbers.randint(2, 6))]
    return [row(length, numbers.randint(0, length)) for length in (*lengths, 150)]


def rows_in(parts: Sequence[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """The rows put together again from the pieces that parts say they have of them."""
    found: list[dict[str, list[int]]] = []
    for part in parts:
        end = 0
        for piece in part["pieces"]:
            assert piece.start == end and piece.length > 0
            end = piece.start + piece.length
            of_row = (part[name][0, piece.start : end].tolist() for name in NAMES)
            if not piece.before:
                found.append({name: [] for name in NAMES})
            assert piece.before == len(found[-1]["input_ids"])
            for name, numbers in zip(NAMES, of_row, strict=True):
                found[-1][name] += numbers
        assert set(part["input_ids"][0, end:].tolist()) <= {PAD}
        assert set(part["shift_labels"][0, end:].tolist()) <= {IGNORED}
    return found


NAMES = ("input_ids", "labels", "position_ids", "shift_labels")


@pytest.mark.parametrize("few_lengths", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8])
def test_each_token_is_in_one_part_with_the_position_and_target_of_its_row_alone(
    threads, few_lengths
):
    most = 0
    for seed in range(10):
        rows = random_rows(seed)
        batch = RowCollator(PAD, few_lengths, threads, COSTS)(rows)
        parts = parts_of(batch)
        assert batch["tokens"] == sum(len(one["input_ids"]) for one in rows)
        assert rows_in(parts) == [
            one
            | {"position_ids": list(range(len(one["input_ids"])))}
            | {"shift_labels": [*one["labels"][1:], IGNORED]}
            for one in rows
        ]
        cuts = [part["pieces"][-1].goes_on for part in parts if part["pieces"]]
        most = max(most, sum(cuts))
        begun = [part["pieces"][0].before > 0 for part in parts if part["pieces"]]
        assert cuts[:-1] == begun[1:] and not begun[0] and not cuts[-1]
    assert most == threads - 1  # in some batch, each cut went through a row


@pytest.mark.parametrize("threads", [2, 3, 4, 6, 8])
def test_in_16_bits_parts_have_few_lengths(threads):
    for seed in range(10):
        rows = [*random_rows(seed), row(1000, 9)]  # over 1,024, steps are not 32
        batch = RowCollator(PAD, few_lengths=True, threads=threads, costs=COSTS)(rows)
        size, lengths = batch["input_ids"].shape[1], batch["part_lengths"]
        step = step_of(size, len(lengths))
        assert sum(lengths) == size and 1 < len(lengths) <= threads and step % 16 == 0
        assert all(length > 0 and length % step == 0 for length in lengths)


@pytest.mark.parametrize(
    ("tokens", "threads", "parts"),
    [
        (2 * LEAST_TOKENS - 1, 2, 1),
        (2 * LEAST_TOKENS, 1, 1),
        (2 * LEAST_TOKENS, 2, 2),
        (2 * LEAST_TOKENS, 3, 1),  # threads that halves would leave over
        (4 * LEAST_TOKENS - 1, 4, 2),
        (4 * LEAST_TOKENS, 4, 4),
        (4 * LEAST_TOKENS, 8, 4),
    ],
)
def test_a_part_has_no_less_than_a_product_should_have_lines(tokens, threads, parts):
    collator = RowCollator(PAD, threads=threads)
    for rows in ([row(tokens, 9)], [row(tokens - 50, 9), row(50, 50)]):
        lengths = collator(rows)["part_lengths"]
        assert len(lengths) == parts and max(lengths) - min(lengths) <= 1


def test_a_batch_is_cut_where_trained_tokens_and_long_rows_have_cost_half():
    rows = [row(128, 64)]  # targets are those of tokens 63 to 126
    assert RowCollator(PAD, threads=2, costs=Costs())(rows)["part_lengths"] == [64, 64]
    # 63 tokens of 1 and 17 of 2 are 97 of 192.
    assert RowCollator(PAD, threads=2, costs=Costs(trained=1))(rows)["part_lengths"] == [80, 48]
    # n + n² / 2 of 128 + 128² / 2: at 90 more than half, at 89 less. Restarting rows are even.
    by_distance = RowCollator(PAD, threads=2, costs=Costs(distance=1))
    assert by_distance(rows)["part_lengths"] == [91, 37]
    assert by_distance([row(128, 1), row(128, 1)])["part_lengths"] == [128, 128]


def test_padding_that_fills_a_batch_up_is_cut_as_tokens_are_and_may_be_all_that_a_part_has():
    collator = RowCollator(PAD, few_lengths=True, threads=2)
    assert collator([row(100, 9)])["part_lengths"] == [64, 64]  # of 128
    # Only the first token trains, and costs as much as all others.
    one = row(2050, 0) | {"labels": [IGNORED, 7, *[IGNORED] * 2048]}
    batch = RowCollator(PAD, few_lengths=True, threads=2, costs=Costs(trained=1e6))([one])
    assert batch["part_lengths"] == [64, 2112]
    last = RowCollator(PAD, few_lengths=True, threads=32)([one])
    *others, only_padding = parts_of(last)
    assert others[0]["pieces"] and not only_padding["pieces"]
    assert set(only_padding["input_ids"][0].tolist()) == {PAD} and rows_in(parts_of(last))


def test_packed_rows_are_the_rows_that_they_were_packed_from():
    apart = [row(70, 30), row(1, 1), row(90, 20)]
    packed = {name: [n for one in apart for n in one[name]] for name in ("input_ids", "labels")}
    packed["seq_lengths"] = [70, 1, 90]
    collator = RowCollator(PAD, threads=2)
    wanted, found = (collator(rows) for rows in ([*apart, row(9, 4)], [packed, row(9, 4)]))
    assert found["row_lengths"] == [70, 1, 90, 9]
    assert all(found[name].tolist() == wanted[name].tolist() for name in NAMES)


def test_pieces_begin_and_end_at_rows_cuts_and_where_both_meet():
    assert pieces_of([5], [2, 2, 4]) == [
        [Piece(0, 2, 0, goes_on=True)],
        [Piece(0, 2, 2, goes_on=True)],
        [Piece(0, 1, 4, goes_on=False)],
    ]
    assert pieces_of([2, 3], [2, 3]) == [[Piece(0, 2)], [Piece(0, 3)]]
    assert pieces_of([1, 1], [3, 3]) == [[Piece(0, 1), Piece(1, 1)], []]
    assert Piece(0, 2, 3).seen == 5


def test_neighbours_share_a_link_and_passes_share_none():
    batch = RowCollator(PAD, threads=4)([row(300, 9)])
    first, second = ([part["links"] for part in parts_of(batch)] for _ in range(2))
    for links in (first, second):
        assert links[0][0] is None and links[-1][1] is None
        assert all(before[1] is after[0] is not None for before, after in pairwise(links))
    own = {id(link) for links in first for link in links if link}
    assert len(own) == 3 and own.isdisjoint(id(link) for links in second for link in links if link)


def test_a_batch_of_another_collator_is_one_part_less_its_count_of_tokens():
    assert parts_of({"input_ids": 1, "labels": 2, "tokens": 3}) == [{"input_ids": 1, "labels": 2}]


def test_costs_of_a_tiny_llama_are_those_counted_by_hand():
    """Two layers; keys and values are half as wide as queries. The second MLP is for answers."""
    attention, mlp, head = 64 * (64 + 32 + 32 + 64), 3 * 64 * 128, 64 * 512
    of_all, of_trained = 2 * attention + mlp, head + mlp
    assert costs_of(tiny()) == pytest.approx(
        (of_trained / of_all, BY_KEY * 2 * 64 / (BY_WEIGHT * of_all))
    )
    of_attention = 2 * 4 * (128 + 96 + 96 + 128)  # A and B of rank 4
    of_mlp = 4 * 3 * 192
    with_adapter = costs_of(add_adapter(tiny(), recipe_of()))
    assert with_adapter.trained == pytest.approx(
        (of_trained + of_mlp) / (of_all + of_attention + of_mlp)
    )


def test_costs_know_heads_wider_than_the_hidden_size_and_a_head_that_is_the_embedding():
    wide, tied = tiny(head_dim=32), tiny(tie_word_embeddings=True)
    of_all = 2 * 2 * 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128
    assert costs_of(wide).distance == pytest.approx(BY_KEY * 2 * 128 / (BY_WEIGHT * of_all))
    assert costs_of(tied) == costs_of(tiny())


def test_where_the_last_layer_works_for_all_tokens_only_the_head_is_for_trained_ones():
    attention, mlp, head = 2 * 64 * (64 + 32 + 32 + 64), 2 * 3 * 64 * 128, 64 * 512
    assert costs_of(tiny("granite")).trained == pytest.approx(head / (attention + mlp))
