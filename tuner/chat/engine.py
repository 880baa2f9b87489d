"""
One base in memory, any number of adapters on it, and answers from all of them in one batch.

    engine = Engine(Base("starter", None, "none"))
    rows = [Row(voice, messages, Sampling()) for voice in (Voice("base"), Voice("bot", adapter))]
    for piece in engine.generate(rows):
        print(piece.row, piece.text, end="")

Adapters come and go without a change to the base (mixed_lora.py). A full fine-tune is a model of
its own and answers in a pass of its own. What was used least recently goes when memory is short.
"""

import gc
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tuner.base_models.lookup import BaseModel, find_base_model
from tuner.chat.adapter_files import read_adapter, stamp
from tuner.chat.generation import Prompt, generate, require_cache
from tuner.chat.mixed_lora import MixedLora
from tuner.chat.voices import Base, Piece, Row, Sampling, Scores, Voice
from tuner.data.rendering import Renderer
from tuner.data.tokenizer import load_tokenizer
from tuner.device import this_device
from tuner.errors import DatasetError, ModelError
from tuner.models.loading import base_dtype, load_base, training_device
from tuner.recipe import make_recipe

SHARE_OF_FREE_MEMORY = 0.5  # for adapters and full fine-tunes, of what the base leaves
FULL_MODEL_NOTE = "A full fine-tune: answered by a model of its own, in a pass of its own"
SCORED_AT_ONCE = 64  # positions whose log-probabilities are computed together, in float32


def never(_: int) -> bool:
    """Nobody cancels."""
    return False


@dataclass(frozen=True)
class _Model:
    """A model that answers, and how it reads and stops."""

    model: Any
    renderer: Renderer
    context_length: int
    stop_token_ids: list[int]


@dataclass(frozen=True)
class _Attached:
    """What was loaded from a folder; `model` is None for adapters."""

    nbytes: int
    stamp: tuple[int, int]
    model: _Model | None = None


class Engine:
    """A base and what was fine-tuned from it.

    Args:
        base: Loaded at once.
        device: None chooses the machine's best.
        limit_bytes: For adapters and full fine-tunes together; None for half of the memory that is
            free when the base is loaded. What one batch asks for is held even above it.

    Attributes:
        context_length: Tokens of prompt and answer together; 0 where the model sets no limit.

    Raises:
        ModelError: The base cannot be loaded, or cannot be talked to.
    """

    def __init__(
        self, base: Base, device: torch.device | None = None, limit_bytes: int | None = None
    ):
        # One line a layer and token: "inputs will be cast to float16".
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        self.base = base
        self._device = device or training_device()
        self._base = self._load(base)
        self._mixed = MixedLora(self._base.model)
        self.renderer = self._base.renderer
        self.context_length = self._base.context_length
        free = this_device().available_bytes
        self._limit = int(free * SHARE_OF_FREE_MEMORY) if limit_bytes is None else limit_bytes
        self._attached: OrderedDict[str, _Attached] = OrderedDict()

    @property
    def default_sampling(self) -> Sampling:
        """As the model's makers advise in generation_config.json, where they do."""
        advice = getattr(self._base.model, "generation_config", None)
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        known = {name: getattr(advice, name, None) for name in names}
        return replace(Sampling(), **{name: v for name, v in known.items() if v is not None})

    def attach(self, folder: str) -> None:
        """Load an adapter, unless it is there already; one that was written anew is read anew.

        Raises:
            ModelError: No adapter, an unsafe one, or one of another base.
        """
        self._hold(folder, None)
        self._make_room({folder})

    def detach(self, folder: str) -> None:
        """Let an adapter or a full fine-tune go."""
        gone = self._attached.pop(folder, None)
        if gone is None:
            return
        if gone.model is None:
            self._mixed.detach(folder)
            return
        del gone
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def attached(self) -> list[str]:
        """Folders of adapters and full fine-tunes in memory, least recently used first."""
        return list(self._attached)

    def memory_bytes(self) -> int:
        """Bytes of the base and of all that is attached."""
        return _nbytes(self._base.model) + sum(held.nbytes for held in self._attached.values())

    def generate(
        self, rows: Sequence[Row], cancelled: Callable[[int], bool] = never
    ) -> Iterator[Piece]:
        """Answer all rows: base and adapters in one batch, then each full fine-tune in its own.

        Raises:
            ModelError: A voice cannot be loaded.
            DatasetError: The chat template refuses a conversation.
        """
        self._attach_all([row.voice for row in rows])
        for model, numbers in self._passes([row.voice for row in rows]):
            held = self._attached[model].model if model else self._base
            assert held is not None
            prompts = [_prompt(held, rows[number]) for number in numbers]
            pieces = generate(
                held.model,
                held.renderer.tokenizer,
                prompts,
                held.stop_token_ids,
                self._planner(None if model else [rows[n].voice.adapter for n in numbers]),
                lambda index, numbers=numbers: cancelled(numbers[index]),  # type: ignore[misc]
            )
            note = FULL_MODEL_NOTE if model else ""
            for piece in pieces:
                yield replace(piece, row=numbers[piece.row], note=note)

    def score(
        self, messages: Sequence[Mapping[str, str]], answer: str, voices: Sequence[Voice]
    ) -> Scores:
        """How likely each voice finds an answer, token by token; base and adapters in one forward.

        Raises:
            ModelError: A voice cannot be loaded.
            DatasetError: The chat template refuses the conversation.
        """
        prompt, ids, texts = _tokens(self.renderer, messages, answer)
        if self.context_length and len(prompt) + len(ids) > self.context_length:
            raise ModelError(
                f"Question and answer have {len(prompt) + len(ids):,} tokens, and the model's "
                f"context has {self.context_length:,}. Choose a shorter one."
            )
        self._attach_all(voices)
        found: list[tuple[float, ...]] = [()] * len(voices)
        for model, numbers in self._passes(voices):
            held = self._attached[model].model if model else self._base
            assert held is not None
            adapters = None if model else [voices[number].adapter for number in numbers]
            with self._planner(adapters)(range(len(numbers))):
                scored = _logprobs(held.model, prompt, ids, len(numbers))
            for number, logprobs in zip(numbers, scored, strict=True):
                found[number] = tuple(logprobs)
        return Scores(tuple(texts), tuple(voice.name for voice in voices), tuple(found))

    def _passes(self, voices: Sequence[Voice]) -> list[tuple[str | None, list[int]]]:
        """Full model or None, and the rows that it answers: those of the base first, in order."""
        order = sorted(
            range(len(voices)), key=lambda n: (voices[n].model or "", voices[n].adapter or "")
        )
        passes: dict[str | None, list[int]] = {}
        for number in order:
            passes.setdefault(voices[number].model, []).append(number)
        return list(passes.items())

    def _planner(
        self, adapters: Sequence[str | None] | None
    ) -> Callable[[Sequence[int]], AbstractContextManager[Any]]:
        """What to enter around a forward over some of the rows; nothing if none has an adapter."""

        def plan_for(rows: Sequence[int]) -> AbstractContextManager[Any]:
            named = [adapters[row] for row in rows] if adapters else []
            return self._mixed.plan(named) if any(named) else nullcontext()

        return plan_for

    def _attach_all(self, voices: Sequence[Voice]) -> None:
        """Hold what a batch asks for, and let go of what it doesn't where memory is short."""
        needed = {folder for voice in voices if (folder := voice.model or voice.adapter)}
        for voice in voices:
            if voice.model or voice.adapter:
                self._hold(voice.adapter or "", voice.model)
        self._make_room(needed)

    def _hold(self, adapter: str, model: str | None) -> None:
        folder = model or adapter
        written = stamp(folder)
        held = self._attached.get(folder)
        if held is not None and held.stamp == written:
            self._attached.move_to_end(folder)
            return
        if model:
            loaded = self._load(replace(self.base, model=model, revision=None, quantization="none"))
            self._attached[folder] = _Attached(_nbytes(loaded.model), written, loaded)
            return
        weights = read_adapter(folder)
        if held is not None:
            self.detach(folder)
        self._attached[folder] = _Attached(self._mixed.attach(folder, weights), written)

    def _make_room(self, needed: set[str]) -> None:
        for folder in self.attached():
            if sum(held.nbytes for held in self._attached.values()) <= self._limit:
                return
            if folder not in needed:
                self.detach(folder)

    def _load(self, base: Base) -> _Model:
        recipe = make_recipe(
            {
                "base_model": base.model,
                "revision": base.revision,
                "quantization": base.quantization,
                "dtype": base.dtype,
            }
        )
        found = find_base_model(base.model, base.revision)
        tokenizer = load_tokenizer(str(found.folder or found.name), found.revision)
        dtype = base_dtype(recipe, self._device, this_device().bf16)
        model = load_base(recipe, found, dtype, self._device, for_inference=True).eval()
        require_cache(model)
        return _answering(model, Renderer(tokenizer), found)


def _answering(model: Any, renderer: Renderer, found: BaseModel) -> _Model:
    advice = getattr(model, "generation_config", None)
    ends = getattr(advice, "eos_token_id", None) or []
    stops = {*renderer.stop_token_ids, *(ends if isinstance(ends, list) else [ends])}
    return _Model(model, renderer, found.context_length, sorted(stops))


def _prompt(held: _Model, row: Row) -> Prompt:
    """The row's token ids; the answer is kept within the model's context."""
    ids = held.renderer.prompt_ids(row.messages)
    sampling = row.sampling
    if held.context_length:
        room = held.context_length - len(ids)
        if room <= 0:
            raise ModelError(
                f"The conversation has {len(ids):,} tokens, and the model's context "
                f"{held.context_length:,}. Shorten it."
            )
        sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
    return Prompt(ids, sampling)


def _tokens(
    renderer: Renderer, messages: Sequence[Mapping[str, str]], answer: str
) -> tuple[list[int], list[int], list[str]]:
    """Prompt ids, answer ids, and the text of each token of the answer."""
    from tuner.data.preview import tokens_of  # the whole of reading data: only when it is asked for

    completion = [{"role": "assistant", "content": answer}]
    pair = renderer.render_pair({"prompt": [*messages], "completion": completion})
    if not pair.chosen.input_ids:
        raise DatasetError("The answer is empty: there is nothing to compare.")
    texts = [token["text"] for token in tokens_of(pair.chosen)]
    return pair.prompt.input_ids, pair.chosen.input_ids, texts


@torch.inference_mode()
def _logprobs(model: Any, prompt: list[int], answer: list[int], rows: int) -> list[list[float]]:
    """rows × N log-probabilities of the answer's tokens, after all that stands before them."""
    ids = torch.tensor([prompt + answer], device=model.device).expand(rows, -1)
    keep = len(answer) + 1
    settings = {"logits_to_keep": keep} if "logits_to_keep" in require_cache(model) else {}
    logits = model(input_ids=ids, use_cache=False, **settings).logits[:, -keep:-1]
    parts = [
        part.float().log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
        for part, wanted in zip(
            logits.split(SCORED_AT_ONCE, 1),
            ids[:, len(prompt) :].split(SCORED_AT_ONCE, 1),
            strict=True,
        )
    ]
    found: list[list[float]] = torch.cat(parts, 1).tolist()
    return found


def _nbytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, with the scales of 4-bit weights."""
    scales = (getattr(p, "quant_state", None) for p in model.parameters())
    packed = sum(int(state.absmax.nbytes) for state in scales if state is not None)
    return packed + sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
