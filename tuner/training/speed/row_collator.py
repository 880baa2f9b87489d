"""
A batch without padding, perhaps in several parts: its rows one after the other.

    collator = RowCollator(pad_token_id)
    for part in parts_of(collator(rows)):
        model(**part, …)

Rows of instruction data differ much in length: in a random batch of four, 44% of a padded batch is
padding. Positions restart with every row, so a position means what it means in a row alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from tuner.levers import part_count
from tuner.training.speed.context_parallel import cut, links_of
from tuner.training.speed.few_shapes import rounded_up, step_of
from tuner.training.speed.last_layer import last_layer_of
from tuner.training.speed.trained_loss import IGNORED, next_tokens

TENSORS = ("input_ids", "position_ids", "labels", "shift_labels")


class Costs(NamedTuple):
    """What a token costs beyond the layers, as a share of those: where a batch is cut.

    Attributes:
        trained: If it is trained on: the head, and the last layer's MLP (last_layer.py).
        distance: For each token before it in its row, which it attends to.
    """

    trained: float = 0.0
    distance: float = 0.0


# Operations for each weight of a layer and token, forward and backward; and for each number of a
# query and key. Products of attention are small ones, of half the speed of a layer's.
BY_WEIGHT, BY_KEY = 4, 2 * 14


def costs_of(model: Any) -> Costs:
    """What tokens cost in a causal LM whose weights are frozen."""
    head, last = model.get_output_embeddings(), last_layer_of(model)
    config = model.config.get_text_config()
    of_trained = _weights(last.mlp) if last is not None else 0
    of_all = _weights(model, but=head) - of_trained
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return Costs(
        trained=(head.in_features * head.out_features + of_trained) / of_all,
        distance=BY_KEY * config.num_hidden_layers * width / (BY_WEIGHT * of_all),
    )


def _weights(model: Any, but: Any = None) -> int:
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return sum(one.in_features * one.out_features for one in linears if one is not but)


EVEN = Costs()


class Piece(NamedTuple):
    """What a part has of a row.

    Attributes:
        start: Where it stands in the part.
        length: Tokens.
        before: Tokens of its row in earlier parts.
        goes_on: Whether the next part has more of the row.
    """

    start: int
    length: int
    before: int = 0
    goes_on: bool = False

    @property
    def seen(self) -> int:
        """Tokens of its row up to its end."""
        return self.before + self.length


class RowCollator:
    """Puts rows of token ids one after the other.

    Args:
        pad_token_id: Of a last row of padding.
        few_lengths: Whether padding fills the batch up to one of few lengths (few_shapes.py).
        threads: Among which its tokens may be shared out (context_parallel.py).
        costs: Of a token.
    """

    def __init__(
        self,
        pad_token_id: int,
        few_lengths: bool = False,
        threads: int = 1,
        costs: Costs = EVEN,
    ):
        self.pad_token_id, self.few_lengths = pad_token_id, few_lengths
        self.threads, self.costs = threads, costs

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """input_ids, position_ids, labels and shift_labels, (1, T) each; row_lengths and, padding
        included, part_lengths; and the number of tokens."""
        sequences = [sequence for row in rows for sequence in _sequences(row)]
        ids, labels = ([token for s in sequences for token in s[which]] for which in (0, 1))
        lengths, tokens = [len(own) for own, _ in sequences], len(ids)
        missing = rounded_up(tokens) - tokens if self.few_lengths else 0
        ids += [self.pad_token_id] * missing
        labels += [IGNORED] * missing
        positions = [position for length in (*lengths, missing) for position in range(length)]
        whole = {"input_ids": ids, "position_ids": positions, "labels": labels}
        batch: dict[str, Any] = {name: torch.tensor([numbers]) for name, numbers in whole.items()}
        batch["shift_labels"] = next_tokens(batch["labels"], lengths)
        parts = self._part_lengths(batch)
        return {**batch, "row_lengths": lengths, "part_lengths": parts, "tokens": tokens}

    def _part_lengths(self, batch: dict[str, Any]) -> list[int]:
        size = batch["input_ids"].shape[1]
        parts = part_count(size, self.threads)
        if parts == 1:
            return [size]
        is_trained, distance = batch["shift_labels"][0] != IGNORED, batch["position_ids"][0]
        costs = 1 + self.costs.trained * is_trained + self.costs.distance * distance
        return cut(costs, parts, step_of(size, parts) if self.few_lengths else 1)


def parts_of(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """What goes into the model at once, of a batch that a RowCollator made or another collator."""
    given = {name: value for name, value in batch.items() if name != "tokens"}
    if "row_lengths" not in given:
        return [given]
    lengths = given["part_lengths"]
    pieces = pieces_of(given["row_lengths"], lengths)
    split = zip(*(given[name].split(lengths, 1) for name in TENSORS), strict=True)
    return [
        {**dict(zip(TENSORS, tensors, strict=True)), "pieces": own, "links": links}
        for tensors, own, links in zip(split, pieces, links_of(len(lengths)), strict=True)
    ]


def pieces_of(row_lengths: Sequence[int], part_lengths: Sequence[int]) -> list[list[Piece]]:
    """What each part has of the rows; what is left of it is padding.

    >>> pieces_of([3, 4], [5, 3])
    [[Piece(start=0, length=3, before=0, goes_on=False), Piece(start=3, length=2, before=0, \
goes_on=True)], [Piece(start=0, length=2, before=2, goes_on=False)]]
    """
    found: list[list[Piece]] = [[] for _ in part_lengths]
    part, start = 0, 0
    for length in row_lengths:
        before = 0
        while before < length:
            if start == part_lengths[part]:
                part, start = part + 1, 0
            own = min(length - before, part_lengths[part] - start)
            found[part].append(Piece(start, own, before, goes_on=before + own < length))
            before, start = before + own, start + own
    return found


def _sequences(row: dict[str, Any]) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels of a row; of a packed one, of each row that it was packed from."""
    ids, labels = row["input_ids"], row.get("labels", row["input_ids"])
    start = 0
    for length in row.get("seq_lengths") or [len(ids)]:
        yield ids[start : start + length], labels[start : start + length]
        start += length
