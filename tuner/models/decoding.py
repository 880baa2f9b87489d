"""
Forwards over one batch of prompts of different lengths, token by token.

    decoder = Decoder(model, prompts)
    logits = decoder.prefill()              # rows × V, of what follows each prompt
    logits = decoder.step(tokens)           # one token a row, chosen from them
    decoder.keep([0, 2])                    # the others have ended

Prompts are padded on the left, and positions count from each prompt's first token. What a token is
chosen by is the caller's: the playground draws (chat/generation.py), training takes the likeliest
(training/sampling.py).
Not covered: images; models that keep their past in a form of their own (refused).
"""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import DynamicCache

from tuner.errors import ModelError

Plan = AbstractContextManager[Any]
NO_PLAN = nullcontext()


class Decoder:
    """The model's forwards over one batch, and the keys and values of what was read so far.

    Args:
        model: In evaluation mode.
        prompts: Token ids, at least one each.
        will_train: The model trains on afterwards: what it keeps of a forward must have a backward.

    Raises:
        ModelError: The model keeps its past in another form.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, will_train: bool = False):
        self._model = model
        self._mode = torch.no_grad if will_train else torch.inference_mode
        self._accepted = require_cache(model)
        self._cache = DynamicCache(config=model.config)
        width = max(map(len, prompts))
        padding = [width - len(ids) for ids in prompts]
        self._is_padded = any(padding)
        device = model.device
        self._ids = torch.tensor(
            [[0] * pad + list(ids) for pad, ids in zip(padding, prompts, strict=True)],
            device=device,
        )
        self._mask = torch.ones_like(self._ids)
        for row, pad in enumerate(padding):
            self._mask[row, :pad] = 0
        self._next = torch.tensor([[len(ids)] for ids in prompts], device=device)

    def prefill(self, plan: Plan = NO_PLAN) -> torch.Tensor:
        """Read the prompts within `plan`; rows × V logits of what follows."""
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        return self._forward(self._ids, positions, plan)

    def step(self, tokens: Sequence[int], plan: Plan = NO_PLAN) -> torch.Tensor:
        """Read one more token of each row; rows × V logits of what follows."""
        ids = torch.tensor(tokens, device=self._model.device)[:, None]
        if self._is_padded:
            self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=-1)
        positions, self._next = self._next, self._next + 1
        return self._forward(ids, positions, plan)

    def keep(self, rows: Sequence[int]) -> None:
        """Let all other rows go."""
        index = torch.tensor(rows, device=self._model.device)
        with self._mode():
            self._cache.reorder_cache(index)
        self._mask, self._next = self._mask[index], self._next[index]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, plan: Plan) -> torch.Tensor:
        settings: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        if self._is_padded:  # without padding, attention is faster without a mask
            settings["attention_mask"] = self._mask
        if "position_ids" in self._accepted:
            settings["position_ids"] = positions
        if "logits_to_keep" in self._accepted:
            settings["logits_to_keep"] = 1
        with self._mode(), plan:
            logits: torch.Tensor = self._model(input_ids=ids, **settings).logits[:, -1]
        return logits.float()


def require_cache(model: Any) -> set[str]:
    """Names of what the model's forward takes.

    Raises:
        ModelError: No cache that a batch's rows can be taken out of.
    """
    accepted = set(inspect.signature(model.forward).parameters)
    if "past_key_values" not in accepted:
        raise ModelError(
            f"{model.config.model_type} models keep their past in a form of their own, and cannot "
            "be talked to here. Choose a base model with a key/value cache."
        )
    return accepted


def has_rows_to_keep(model: Any) -> bool:
    """Whether a model's past is keys and values that rows can be taken out of."""
    stateful = getattr(model, "_is_stateful", False)  # transformers' word for Mamba and its like
    return not stateful and "past_key_values" in inspect.signature(model.forward).parameters
