"""A micro-batch on its way through the model, as far as it decides what is kept in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.base_models.architecture import Linear

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Pass:
    """One micro-batch through the model, and what about it decides what is kept.

    Args:
        rows, length: Sequences at once, and tokens in each.
        padded: The rows differ in length (or are packed), so that attention needs a mask.
        element: Bytes of one number of the base and its activations: 4, or 2 in mixed precision.
        targets: Layers with an adapter, each with the number of blocks where it has one.
        rank: Of the adapters.
        full: All weights train; then there are no targets.
        dropout, dora: On the adapters.
        int8: The base's layers are bitsandbytes' 8-bit ones.
        levers: Of training/speed, those that training takes (expected_levers.py).
        parallel: Parts of the micro-batch that threads take through the model at the same time.
    """

    rows: int
    length: int
    padded: bool
    element: int
    targets: Sequence[tuple[Linear, int]] = ()
    rank: int = 0
    full: bool = False
    dropout: bool = False
    dora: bool = False
    int8: bool = False
    levers: frozenset[str] = frozenset()
    parallel: int = 1

    @property
    def tokens(self) -> int:
        return self.rows * self.length
