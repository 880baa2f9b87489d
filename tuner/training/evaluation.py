"""
The held-out loss, the same however the rows are put into batches; and a stop in its middle.

    class RunTrainer(CutEvaluation): …
    class RunSFTTrainer(ExactEvaluation, RunTrainer, SFTTrainer): …

transformers averages the means of its batches, weighted by their rows: a token in a batch of short
answers counts more than one among long answers, and another micro-batch gives another loss. Here it
is the mean over all trained positions, so rows may be batched by length, which leaves little
padding. Preferences have one loss a row, and keep transformers' mean and batches.
Not covered: several processes that evaluate together.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader

from tuner.training.callbacks import EvaluationCut
from tuner.training.speed.trained_loss import IGNORED


class CutEvaluation:
    """Mixed in before transformers' Trainer: an evaluation that was cut has no metrics."""

    def _evaluate(self: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        try:
            metrics: dict[str, float] = super()._evaluate(*args, **kwargs)  # type: ignore[misc]
        except EvaluationCut:
            return {}
        return metrics

    def _determine_best_metric(self: Any, metrics: dict[str, float], trial: Any) -> bool:
        return bool(metrics) and super()._determine_best_metric(metrics, trial)  # type: ignore[misc]


class ExactEvaluation:
    """Mixed in before trl's SFTTrainer."""

    _summed, _trained = 0.0, 0

    def get_eval_dataloader(self: Any, eval_dataset: Any = None) -> DataLoader[Any]:
        """Rows of like length together, never more tokens than a batch of the longest has."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        most = self.args.per_device_eval_batch_size * max(lengths)
        return DataLoader(
            rows,
            batch_sampler=list(batches_by_length(lengths, most)),
            collate_fn=self.data_collator,
        )

    def evaluation_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the trainer's, with the exact mean for its loss."""
        self._summed, self._trained = 0.0, 0
        output = super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]
        output.metrics["eval_loss"] = self._summed / max(1, self._trained)
        return output

    def prediction_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Remember how many positions a batch's loss is the mean of."""
        found = super().prediction_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        labels = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][:, 1:]
        trained = int((labels != IGNORED).sum())
        self._summed += float(found[0]) * trained
        self._trained += trained
        return found


def batches_by_length(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of rows by falling length, in batches of at most `most` tokens, padding included.

    >>> list(batches_by_length([10, 30, 10, 20, 10], 40))
    [[1], [3, 0], [2, 4]]
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batch: list[int] = []
    for index in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
