"""
Will it fit, and how long will it take? From a model's config and a Recipe; arithmetic only.

    estimate(recipe, find_base_model(recipe.base_model), this_device()).verdict

The estimate is the largest of the moments in which a training process holds most: weights being
read, the logits, the backward pass of a block, the end of a full backward pass. Memory is what the
process takes beyond its imports (on a CPU the growth of its resident set, whose peak
bench/estimate.py measures beside this), or what it takes of one GPU.
Not covered: weights or optimizer split over several GPUs; of mixtures of experts all but weights.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from tuner.base_models.architecture import Architecture, Linear, read_architecture, target_linears
from tuner.base_models.lookup import BaseModel
from tuner.device import Device
from tuner.errors import RecipeError
from tuner.levers import CONTEXT_PARALLEL, ROW_ATTENTION, TRAINED_LOSS, part_count
from tuner.memory.activations import (
    checkpoints,
    dora_norm,
    kept_by_blocks,
    kept_by_last_norm,
    kept_by_one_block,
)
from tuner.memory.expected_levers import expected_levers
from tuner.memory.footprint import (
    Trained,
    adapter_tensors,
    count_trained,
    held_weights,
    logits_tile,
    model_tensors,
    optimizer_state,
    own_tile,
)
from tuner.memory.forward import FLOAT, Pass
from tuner.memory.overhead import PROCESS, beside_loaded_weights, freed, holes, left, runtime
from tuner.memory.training_time import training_seconds
from tuner.recipe import Recipe

Verdict = Literal["fits", "tight", "will not fit"]

HEADROOM = 0.9  # share of the available memory that a choice made for the user may plan with
LARGEST_MICRO_BATCH = {"cpu": 8, "mps": 8, "cuda": 64}  # rows
# Where rows have no padding, a CPU's micro-batch has at most so many tokens on average instead:
# fewer leave cores waiting between operations, more leave their caches (docs/EXPERIMENTS.md).
TOKENS_AT_ONCE = 3072

PROOF_TOKENS = 256  # on which the saved adapter is compared (training/verify.py)


@dataclass(frozen=True)
class Estimate:
    """Memory, time and the two settings that follow from them.

    Args:
        available_memory_bytes: Of the device, less what a training process's imports take of it.
        breakdown: Bytes by weights, adapter, gradients, optimizer, activations, logits, overhead,
            at the moment when they are largest together.
        micro_batch_size, gradient_checkpointing: The recipe's, or what `auto` becomes.
        estimated_seconds: None if the number of rows is unknown.
        verdict: tight leaves less than a tenth of the memory free.
    """

    estimated_memory_bytes: int
    available_memory_bytes: int
    fits: bool
    breakdown: dict[str, int]
    trainable_parameters: int
    total_parameters: int
    micro_batch_size: int
    gradient_checkpointing: bool
    estimated_seconds: float | None
    verdict: Verdict

    def document(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def estimate(
    recipe: Recipe,
    base: BaseModel,
    device: Device,
    *,
    longest: int | None = None,
    rows: int | None = None,
    mean_tokens: float | None = None,
) -> Estimate:
    """Estimate a run on a device, and decide what its recipe leaves to the machine.

    Args:
        longest: Tokens of the longest row; by default max_length.
        rows: That train. With packing, packed sequences.
        mean_tokens: Of a row; by default half of the longest.

    Raises:
        ModelError: The config does not say how large the model is.
        RecipeError: lora.target_modules names no layer of the model.
    """
    length = min(longest or recipe.max_length, recipe.max_length)
    mean_tokens = mean_tokens or length / 2
    if recipe.packing:
        length = recipe.max_length
        mean_tokens = length
    subject = _Subject(recipe, base, device, length, mean_tokens)
    available = max(0, device.available_bytes - PROCESS[device.kind])
    micro, checkpointing = _choose(subject, available)
    breakdown = subject.breakdown(micro, checkpointing)
    needed = sum(breakdown.values())
    seconds = training_seconds(
        recipe, subject.model, device, micro, checkpointing, rows, mean_tokens
    )
    return Estimate(
        estimated_memory_bytes=needed,
        available_memory_bytes=available,
        fits=needed <= available,
        breakdown=breakdown,
        trainable_parameters=count_trained(subject.trained),
        total_parameters=subject.parameters + subject.adapter,
        micro_batch_size=micro,
        gradient_checkpointing=checkpointing,
        estimated_seconds=seconds,
        verdict=_verdict(needed, available),
    )


def _verdict(needed: int, available: int) -> Verdict:
    if needed > available:
        return "will not fit"
    return "fits" if needed <= HEADROOM * available else "tight"


def _choose(subject: "_Subject", available: int) -> tuple[int, bool]:
    """The largest micro-batch that fits with headroom, without checkpointing if one does at all."""
    options = list(subject.options())
    for micro, checkpointing in options:
        if sum(subject.breakdown(micro, checkpointing).values()) <= HEADROOM * available:
            return micro, checkpointing
    return options[-1]


@dataclass(frozen=True)
class _Subject:
    """One recipe on one model and device. `length` is the longest sequence's, in tokens."""

    recipe: Recipe
    base: BaseModel
    device: Device
    length: int
    mean_tokens: float

    @cached_property
    def model(self) -> Architecture:
        return read_architecture(self.base.config)

    @property
    def full(self) -> bool:
        return self.recipe.adapter == "none"

    @property
    def dora(self) -> bool:
        return self.recipe.adapter == "dora"

    @property
    def parameters(self) -> int:
        return self.model.parameters if self.model.exact else self.base.parameters

    @property
    def element(self) -> int:
        """Bytes of one base weight and activation, as training/model.py chooses its dtype."""
        if self.recipe.dtype != "auto":
            return FLOAT if self.recipe.dtype == "float32" else 2
        wide = self.full or (self.device.kind != "cuda" and not self.device.bf16)
        return FLOAT if wide else 2

    @cached_property
    def targets(self) -> list[tuple[Linear, int]]:
        if self.full:
            return []
        wanted = self.recipe.lora.target_modules
        found = target_linears(self.model, wanted)
        if not found and self.model.exact:
            names = ", ".join(linear.name.rpartition(".")[2] for linear in self.model.linears)
            raise RecipeError(
                f"lora.target_modules={wanted} names no layer of {self.recipe.base_model}, whose "
                f"linear layers are {names}. Name some of these, or use all-linear."
            )
        return found

    @cached_property
    def levers(self) -> frozenset[str]:
        return expected_levers(self.recipe, self.base.config, self.model, self.device.kind)

    @cached_property
    def trained(self) -> list[Trained]:
        if self.full:
            return list(model_tensors(self.model, self.parameters))
        return list(adapter_tensors(self.targets, self.recipe.lora.r, self.dora))

    @property
    def adapter(self) -> int:
        """Parameters beside the base's."""
        return 0 if self.full else count_trained(self.trained)

    @property
    def optim(self) -> str:
        if self.recipe.optim != "auto":
            return str(self.recipe.optim)
        return "paged_adamw_8bit" if self.device.kind == "cuda" else "adamw_torch_fused"

    def options(self) -> Iterator[tuple[int, bool]]:
        """Micro-batch sizes and checkpointing that the recipe allows, the fastest first."""
        sizes, setting = self._micro_batch_sizes(), self.recipe.gradient_checkpointing
        for checkpointing in (False, True) if setting == "auto" else (setting,):
            for micro in sizes:
                yield micro, checkpointing

    def _micro_batch_sizes(self) -> list[int]:
        if self.recipe.micro_batch_size != "auto":
            return [self.recipe.micro_batch_size]
        each = max(1, self.recipe.batch_size // self.device.count)
        largest = min(self._most_rows(), each & -each)
        return [2**power for power in reversed(range(largest.bit_length()))]

    def _most_rows(self) -> int:
        """Of a micro-batch. Without padding between rows, more than some tokens gain no speed."""
        if self.device.kind == "cpu" and ROW_ATTENTION in self.levers:
            return max(1, int(TOKENS_AT_ONCE / self.mean_tokens))
        return LARGEST_MICRO_BATCH[self.device.kind]

    def breakdown(self, micro: int, checkpointing: bool) -> dict[str, int]:
        """Bytes by part, at the moment when their sum is largest."""
        run = self._pass(micro)
        training = list(self._training(micro, checkpointing))
        most = max(moment["activations"] for moment in training)
        for moment in training:
            moment["overhead"] = holes(self.device, run, moment["activations"], most)
        moments = [self._parts() | moment for moment in (*training, *self._proof(run, most))]
        largest = max(moments, key=lambda parts: sum(parts.values()))
        computes = runtime(self.device, run, max(0.0, self.length - self.mean_tokens))
        return {**largest, "overhead": largest["overhead"] + computes}

    def _parts(self) -> dict[str, int]:
        """What stays from the first step to the last."""
        return {
            "weights": self._weights(),
            "adapter": self.adapter * FLOAT,
            "gradients": 0,
            "optimizer": optimizer_state(self.trained, self.optim, self._trained_element),
            "activations": 0,
            "logits": 0,
            "overhead": 0,
        }

    def _training(self, micro: int, checkpointing: bool) -> Iterator[dict[str, int]]:
        """Moments of a step: the top of its forward, a block's backward, the end of the last."""
        run, model = self._pass(micro), self.model
        gradients = count_trained(self.trained) * self._trained_element
        before = gradients if self._accumulates(micro) else 0
        kept = checkpoints(model, run) if checkpointing else kept_by_blocks(model, run)
        kept += kept_by_last_norm(model, run)
        block = kept_by_one_block(model, run) if checkpointing else 0
        head = model.vocab * model.hidden * FLOAT if self.full else 0
        logits = self._logits(run)
        yield {"gradients": before + head, "activations": kept, "logits": logits}
        workspace = self._workspace(run)
        inside = block + max(workspace, dora_norm(run))
        yield {"gradients": before + head, "activations": kept + inside}
        if run.parallel > 1:  # threads have gradients each, beside those of earlier batches
            gradients = before + run.parallel * gradients
        # The embedding's gradient is made whole before it joins the head's, if the two are tied.
        yield {"gradients": gradients + head, "activations": workspace}

    def _logits(self, run: Pass) -> int:
        if TRAINED_LOSS in run.levers:
            return run.parallel * own_tile(self.model, run.tokens // run.parallel, run.element)
        return logits_tile(self.model, run.tokens, run.element, self.device.kind == "cuda")

    def _proof(self, run: Pass, activations: int) -> Iterator[dict[str, int]]:
        """Moments after the training: the trained model is asked, and a fresh base is loaded.

        What the trained model says with and without its adapter is held until the end.
        """
        logits = 2 * PROOF_TOKENS * self.model.vocab * FLOAT
        yield {"logits": logits, "overhead": freed(self.device, run, activations)}
        file = beside_loaded_weights(self.recipe, self.base, self.model, self.device, self.element)
        loading = {"adapter": 0, "optimizer": 0, "logits": logits}
        yield {**loading, "overhead": left(run, activations) + file}

    def _pass(self, micro: int) -> Pass:
        # Preferences are computed as chosen and rejected answer in one batch.
        sequences = micro * (2 if self.recipe.objective == "dpo" else 1)
        packed = self.recipe.packing  # trl joins a micro-batch of packed rows into one long row
        return Pass(
            rows=1 if packed else sequences,
            length=self.length * (sequences if packed else 1),
            padded=packed,
            element=self.element,
            targets=self.targets,
            rank=self.recipe.lora.r,
            full=self.full,
            dropout=self.recipe.lora.lora_dropout > 0,
            dora=self.dora,
            int8=self.recipe.quantization == "int8",
            levers=self.levers,
            parallel=self._parallel(sequences * self.length),
        )

    def _parallel(self, tokens: int) -> int:
        return part_count(tokens, self.device.cores) if CONTEXT_PARALLEL in self.levers else 1

    def _accumulates(self, micro: int) -> bool:
        return self.recipe.batch_size > micro * self.device.count

    @property
    def _trained_element(self) -> int:
        return self.element if self.full else FLOAT

    def _weights(self) -> int:
        return held_weights(self.model, self.parameters, self.recipe.quantization, self.element)

    def _workspace(self, run: Pass) -> int:
        """Gradients inside one block's backward, and a widened copy of a quantized weight."""
        return run.tokens * (4 * self.model.intermediate + 2 * self.model.hidden) * run.element
