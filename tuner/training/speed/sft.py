"""
What trl's SFT trainer does differently when levers are on: its loss and its batches.

    class RunSFTTrainer(ByLevers, RunTrainer, SFTTrainer): …
    trainer.adopt(levers)
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from tuner.levers import CONTEXT_PARALLEL, ROTARY, ROW_ATTENTION, TRAINED_LOSS
from tuner.training.speed.context_parallel import summed_in_parallel
from tuner.training.speed.levers import NO_LEVERS, Levers
from tuner.training.speed.rotary import rotary_in_one
from tuner.training.speed.row_attention import rows_attend_to_themselves
from tuner.training.speed.row_collator import RowCollator, costs_of, parts_of
from tuner.training.speed.trained_loss import IGNORED


class ByLevers:
    """Mixed in before trl's SFTTrainer. Without levers, everything is trl's."""

    levers = NO_LEVERS

    def adopt(self: Any, levers: Levers) -> None:
        """Train by these levers, which the model's forwards know already (levers.pull)."""
        self.levers = levers
        if ROW_ATTENTION in levers:
            self.data_collator = RowCollator(
                self.processing_class.pad_token_id,
                few_lengths=self.model.dtype != torch.float32,
                threads=torch.get_num_threads() if CONTEXT_PARALLEL in levers else 1,
                costs=costs_of(self.model),
            )
        self.trained_weights = [
            weight for weight in self.model.parameters() if weight.requires_grad
        ]

    def training_step(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A forward and a backward, in which checkpointed layers run their forward again."""
        with self._lent():
            loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
            return loss

    def try_batch(self: Any, rows: list[dict[str, Any]]) -> None:
        """As RunTrainer's."""
        with self._lent():
            super().try_batch(rows)  # type: ignore[misc]

    @contextmanager
    def _lent(self: Any) -> Iterator[None]:
        """What holds for a pass and no longer: generation goes its own way."""
        with ExitStack() as stack:
            if ROW_ATTENTION in self.levers:
                stack.enter_context(rows_attend_to_themselves(self.model))
            if ROTARY in self.levers:
                stack.enter_context(rotary_in_one(self.model))
            yield

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

        def loss_of(part: dict[str, Any]) -> torch.Tensor:
            loss: torch.Tensor = model(**part, use_cache=False, summed_loss=True)
            return loss

        with self._lent():
            summed = summed_in_parallel(loss_of, parts_of(inputs), self.trained_weights)
        count = num_items_in_batch
        if count is None:
            shifted = inputs.get("shift_labels", inputs["labels"][:, 1:])
            count = (shifted != IGNORED).sum()
        return summed / torch.as_tensor(count, device=summed.device).clamp(min=1)
