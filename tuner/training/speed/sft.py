"""
What trl's SFT trainer does differently when levers are on: its loss and its batches.

    class RunSFTTrainer(RunTrainer, ByLevers, SFTTrainer): …
    trainer.adopt(levers)
"""

from contextlib import nullcontext
from typing import Any

import torch

from tuner.training.speed.levers import NO_LEVERS, ROW_ATTENTION, TRAINED_LOSS, Levers
from tuner.training.speed.row_attention import RowCollator, rows_attend_to_themselves
from tuner.training.speed.trained_loss import IGNORED


class ByLevers:
    """Mixed in before trl's SFTTrainer. Without levers, everything is trl's."""

    levers = NO_LEVERS

    def adopt(self: Any, levers: Levers) -> None:
        """Train by these levers, which the model's forwards know already (levers.pull)."""
        self.levers = levers
        if ROW_ATTENTION in levers:
            step = self.args.pad_to_multiple_of or 1
            self.data_collator = RowCollator(self.processing_class.pad_token_id, step)

    def compute_loss(
        self: Any,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean loss of the trained positions.

        Args:
            num_items_in_batch: Trained positions of all micro-batches of a step; None: of this one.
        """
        if TRAINED_LOSS not in self.levers:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        given = {name: value for name, value in inputs.items() if name != "tokens"}
        rows = "row_lengths" in given
        with rows_attend_to_themselves(model) if rows else nullcontext():
            summed = model(**given, use_cache=False, summed_loss=True)
        count = num_items_in_batch
        if count is None:
            shifted = inputs["shift_labels"] if rows else inputs["labels"][:, 1:]
            count = (shifted != IGNORED).sum()
        return summed / torch.as_tensor(count, device=summed.device).clamp(min=1)
