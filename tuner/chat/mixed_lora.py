"""
One forward for many adapters: each row of a batch with its own LoRA or DoRA, or with none.

    mixed = MixedLora(model)
    mixed.attach("support-bot", read_adapter(folder))
    with mixed.plan([None, "support-bot"]):
        model(input_ids=two_rows)

A linear layer computes the whole batch at once, W x, and then s B A x is added to the rows that
have an adapter there; rows without one are not touched: they are what the base alone makes of them.
Decoding is bound by reading the weights, so a second row costs little, if what is done for it is
little: layers that share their input (q, k, v; gate, up) share one A x, one token's products are
matrix times vector, which needs no second thread, and nothing is copied, padded or scattered.
The base is never changed: a plan lends its layers another `forward` while it is entered.

DoRA (https://arxiv.org/abs/2402.09353) is W x + s B A x, scaled by one number an output; these
numbers are computed when the adapter is attached, while peft computes them in every forward.
Not covered: adapters of embeddings and of experts that see only some of the tokens (refused).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from tuner.chat.adapter_files import LoraWeights
from tuner.errors import ModelError

ROWS_ONE_BY_ONE = 4  # up to so many rows of one adapter, products with single vectors are faster
IDENTITY_ROWS = 512
PROBE = torch.tensor([[1, 2, 3], [3, 2, 1]])  # token ids that every model has

Forward = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class _Layer:
    """One adapter's share of one linear layer.

    Attributes:
        columns: Its range in the group's A x; None where it is alone in it.
        b: outputs × r, scaled; a view of r × outputs, which is read faster.
        stretch: DoRA: what W x is multiplied with, less one.
    """

    columns: slice | None
    b: torch.Tensor
    stretch: torch.Tensor | None


@dataclass(frozen=True)
class _Group:
    """One adapter's share of linear layers that have the same input: their A, one upon another."""

    a: torch.Tensor
    layers: dict[str, _Layer]

    @property
    def nbytes(self) -> int:
        layers = self.layers.values()
        stretches = [layer.stretch for layer in layers if layer.stretch is not None]
        return self.a.nbytes + sum(t.nbytes for t in (*(layer.b for layer in layers), *stretches))


@dataclass(frozen=True)
class _Rows:
    """Rows [start, end) of a batch, all of one adapter."""

    adapter: dict[int, _Group]
    start: int
    end: int


class MixedLora:
    """The adapters of one base, and plans that put them on rows.

    Args:
        model: In evaluation mode. One tiny forward finds out which layers share their input.
    """

    def __init__(self, model: Any):
        self.model = model
        self._groups = _linear_groups(model)
        self._group_of = {name: index for index, group in enumerate(self._groups) for name in group}
        self._modules = {name: model.get_submodule(name) for name in self._group_of}
        self._adapters: dict[str, dict[int, _Group]] = {}

    def attach(self, name: str, weights: Mapping[str, LoraWeights]) -> int:
        """Take an adapter in; returns its bytes in memory.

        Raises:
            ModelError: It belongs to another base.
        """
        self._require_fit(name, weights)
        device = self.model.device
        groups = {}
        for index, group in enumerate(self._groups):
            targeted = {layer: weights[layer] for layer in group if layer in weights}
            if targeted:
                groups[index] = _group(targeted, self._modules, device)
        self._adapters[name] = groups
        return sum(group.nbytes for group in groups.values())

    def detach(self, name: str) -> None:
        """Let an adapter go."""
        del self._adapters[name]

    def plan(self, names: Sequence[str | None]) -> "Plan":
        """What to do for a batch whose row i has adapter names[i].

        Args:
            names: Rows without an adapter first, rows of one adapter side by side.
        """
        return Plan(self, names)

    def rows_of(self, names: Sequence[str | None]) -> list[_Rows]:
        """Ranges of rows with one adapter each."""
        found, start = [], 0
        for name, members in groupby(names):
            end = start + len(list(members))
            if name is not None:
                found.append(_Rows(self._adapters[name], start, end))
            start = end
        return found

    def layers_of(self, rows: Sequence[_Rows]) -> Iterator[tuple[nn.Module, str, int]]:
        """Module, name and group of each layer that an adapter of these rows changes."""
        for index, group in enumerate(self._groups):
            for name in group:
                if any(
                    index in part.adapter and name in part.adapter[index].layers for part in rows
                ):
                    yield self._modules[name], name, index

    def _require_fit(self, adapter: str, weights: Mapping[str, LoraWeights]) -> None:
        base = getattr(self.model.config, "_name_or_path", "") or "the base"
        for name, lora in weights.items():
            if name not in self._modules:
                raise ModelError(
                    f"{adapter} adapts {name}, which {base} does not have as a linear layer that "
                    "every token passes. Choose the base model that the adapter was trained on."
                )
            inputs, outputs = _shape(self._modules[name])
            if (lora.a.shape[1], lora.b.shape[0]) != (inputs, outputs):
                raise ModelError(
                    f"{adapter} adapts a {name} of {lora.a.shape[1]} inputs and {lora.b.shape[0]} "
                    f"outputs, and that of {base} has {inputs} and {outputs}. "
                    "Choose the base model that the adapter was trained on."
                )


class Plan:
    """Entered, it lends the base's layers a forward that knows the rows; may be entered again."""

    def __init__(self, mixed: MixedLora, names: Sequence[str | None]):
        rows = mixed.rows_of(names)
        self._work = _Work(len(names), rows)
        self._lent = {
            module: self._work.forward_of(module, name, group)
            for module, name, group in mixed.layers_of(rows)
        }
        self._kept: list[tuple[nn.Module, Forward]] = []

    def __enter__(self) -> "Plan":
        for module, forward in self._lent.items():
            # Past nn.Module.__setattr__, which looks for parameters: 200 layers a token.
            if "forward" in module.__dict__:
                self._kept.append((module, module.__dict__["forward"]))
            module.__dict__["forward"] = forward
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._lent:
            del module.__dict__["forward"]
        for module, forward in self._kept:
            module.__dict__["forward"] = forward
        self._kept.clear()
        self._work.forget()


class _Shared:
    """The last input that a plan's layers saw, and its A x for each part of the rows."""

    def __init__(self) -> None:
        self.input: torch.Tensor | None = None
        self.group = -1
        self.compressed: list[torch.Tensor] = []


class _Work:
    """What a plan does for its rows in each layer."""

    def __init__(self, batch: int, rows: Sequence[_Rows]):
        self.batch = batch
        self.first = min((part.start for part in rows), default=batch)
        self.rows = list(rows)
        # Reading one token, a row is a vector, and a product with a vector needs no second thread.
        self.vectors = [
            _Rows(part.adapter, row, row + 1)
            for part in rows
            for row in range(part.start, part.end)
        ]
        self.by_vectors = all(part.end - part.start <= ROWS_ONE_BY_ONE for part in rows)
        self.shared = _Shared()

    def forget(self) -> None:
        """Let go of the last input, and of A x."""
        self.shared.__init__()  # type: ignore[misc]

    def forward_of(self, module: nn.Module, name: str, group: int) -> Forward:
        """A layer's forward that adds to each row what its adapter adds there."""
        base = _base_forward(module, self.first, self.batch)
        bias = cast(torch.Tensor | None, getattr(module, "bias", None))
        many = _shares(self.rows, group, name)
        singles = [
            (index, rows.start, layer.columns, layer.b, layer.stretch)
            for index, rows, layer in _shares(self.vectors, group, name)
        ]
        numbers_by_vectors = self.batch * _shape(module)[0] if self.by_vectors else -1
        shared, product = self.shared, torch.mv

        # For one token this runs in 200 layers, 20 times a second: no attribute is looked up and
        # nothing called that could be known before.
        def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            y = base(x, *args, **kwargs)
            by_vectors = x.numel() == numbers_by_vectors
            if x is not shared.input or group != shared.group:
                self._compress(x, group, by_vectors)
            compressed = shared.compressed
            if not by_vectors:
                _add_to_many(y, compressed, many, self.batch, bias)
                return y
            for index, row, columns, b, stretch in singles:
                ax = compressed[index]
                change = product(b, ax if columns is None else ax[columns])
                line = y[row]
                if stretch is not None:
                    change = change + _without(line, bias) * stretch
                line.add_(change.to(line.dtype))
            return y

        return forward

    def _compress(self, x: torch.Tensor, group: int, by_vectors: bool) -> None:
        """A x of the rows that have an adapter in this group."""
        shared, batch = self.shared, self.batch
        shared.input, shared.group = x, group
        lines = x.reshape(batch, -1) if by_vectors else x.reshape(-1, x.shape[-1])
        if by_vectors:
            shared.compressed = [
                torch.mv(part.adapter[group].a, lines[part.start].float())
                for part in self.vectors
                if group in part.adapter
            ]
            return
        tokens = len(lines) // batch
        shared.compressed = [
            functional.linear(
                lines[part.start * tokens : part.end * tokens].float(), part.adapter[group].a
            )
            for part in self.rows
            if group in part.adapter
        ]


def _shares(rows: Sequence[_Rows], group: int, name: str) -> list[tuple[int, _Rows, _Layer]]:
    """Rows whose adapter changes this layer: index of their A x, they, and the adapter's share."""
    adapted = [part for part in rows if group in part.adapter]
    return [
        (index, part, part.adapter[group].layers[name])
        for index, part in enumerate(adapted)
        if name in part.adapter[group].layers
    ]


def _add_to_many(
    y: torch.Tensor,
    compressed: Sequence[torch.Tensor],
    shares: Sequence[tuple[int, _Rows, _Layer]],
    batch: int,
    bias: torch.Tensor | None,
) -> None:
    """Add B A x to all tokens of rows; computed in float32, and rounded as peft does it."""
    flat = y.view(-1, y.shape[-1])
    tokens = len(flat) // batch
    for index, rows, layer in shares:
        lines = flat[rows.start * tokens : rows.end * tokens]
        ax = compressed[index]
        change = functional.linear(ax if layer.columns is None else ax[:, layer.columns], layer.b)
        if layer.stretch is not None:
            change += _without(lines, bias) * layer.stretch
        lines.add_(change.to(y.dtype))


def _without(lines: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return lines if bias is None else lines.float() - bias


def _base_forward(module: nn.Module, first: int, batch: int) -> Forward:
    forward = cast(Forward, module.forward)
    if type(module).__name__ != "Linear8bitLt" or not 0 < first < batch:
        return forward

    # LLM.int8 (https://arxiv.org/abs/2208.07339) keeps those columns in 16 bits that are large in
    # any row; by themselves, rows of the base don't notice what an adapter makes of other rows.
    def apart(x: torch.Tensor) -> torch.Tensor:
        split = first * (x.shape[0] // batch)
        return torch.cat([forward(x[:split]), forward(x[split:])])

    return apart


def _group(
    weights: Mapping[str, LoraWeights], modules: Mapping[str, nn.Module], device: torch.device
) -> _Group:
    layers, start = {}, 0
    for name, lora in weights.items():
        columns = slice(start, start := start + lora.a.shape[0]) if len(weights) > 1 else None
        scales, stretch = torch.tensor(lora.scale), None
        if lora.magnitude is not None:
            norms = _weight_norms(modules[name], lora).cpu()
            scales = lora.scale * (lora.magnitude / norms)[:, None]
            stretch = (lora.magnitude / norms - 1).to(device)
        b = (lora.b * scales).T.contiguous().to(device).T
        layers[name] = _Layer(columns, b, stretch)
    a = torch.cat([lora.a for lora in weights.values()]).to(device)
    return _Group(a, layers)


@torch.inference_mode()
def _weight_norms(module: nn.Module, lora: LoraWeights) -> torch.Tensor:
    """Length of each output's row of W + s B A.

    W is what the layer makes of the identity, which holds for packed weights as well.
    """
    weight = next(module.parameters())
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
    bias = cast(torch.Tensor | None, getattr(module, "bias", None))
    inputs, outputs = _shape(module)
    squares = torch.zeros(outputs, device=weight.device)
    a, b = lora.a.to(weight.device), lora.b.to(weight.device)
    for start in range(0, inputs, IDENTITY_ROWS):
        count = min(IDENTITY_ROWS, inputs - start)
        identity = torch.zeros(count, inputs, dtype=dtype, device=weight.device)
        identity[range(count), range(start, start + count)] = 1
        columns = module(identity).float()
        if bias is not None:
            columns -= bias.float()
        columns += lora.scale * (a[:, start : start + count].T @ b.T)
        squares += columns.square_().sum(0)
    return squares.sqrt_()


def _shape(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return cast(int, module.in_features), cast(int, module.out_features)


@dataclass
class _Seen:
    """Linear layers in the order in which a forward calls them, grouped by their input."""

    inputs: list[torch.Tensor] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    unfit: set[str] = field(default_factory=set)

    def __call__(self, name: str, x: torch.Tensor) -> None:
        whole = x.shape[:-1] in (PROBE.shape, (PROBE.shape[0], 1), (PROBE.numel(),))
        if not whole or name in self.names:  # some of the tokens only, or called twice
            self.unfit.add(name)
            return
        self.names.add(name)
        if not self.inputs or x is not self.inputs[-1]:
            self.inputs.append(x)
            self.groups.append([])
        self.groups[-1].append(name)


@torch.inference_mode()
def _linear_groups(model: Any) -> list[list[str]]:
    """Names of the linear layers that all tokens pass, those with the same input together."""
    seen = _Seen()

    def note(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _, inputs: seen(name, inputs[0])

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    try:
        model(input_ids=PROBE.to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    fit = [[name for name in group if name not in seen.unfit] for group in seen.groups]
    return [group for group in fit if group]
