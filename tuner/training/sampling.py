"""
Let a model in training answer a few fixed prompts, so that its change can be read.

Greedy, all prompts in one batch that a row leaves when its answer ends, with the random state left
as it was: a run with samples and one without end in the same weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tuner.data.rendering import Renderer
from tuner.models.decoding import Decoder, has_rows_to_keep


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Sampler:
    """Answers prompts with the renderer that training uses.

    Args:
        renderer: Makes the prompt's token ids and knows the stop tokens.
        system_prompt: Put before each prompt, as in training.
        max_new_tokens: Longest answer.
    """

    def __init__(self, renderer: Renderer, system_prompt: str | None, max_new_tokens: int):
        self.renderer = renderer
        self.system_prompt = system_prompt
        self.max_new_tokens = max_new_tokens

    def answer(
        self, model: Any, prompts: list[str], cancelled: Callable[[], bool] = never
    ) -> list[str]:
        """Greedy answers, one for each prompt, without the stop token; none if it was cancelled.

        Args:
            cancelled: Asked before each token.
        """
        if not prompts or cancelled():
            return []
        was_training = model.training
        model.eval()
        try:
            with torch.random.fork_rng(devices=[]):
                answers = self._answers(_bare(model), prompts, cancelled)
        finally:
            model.train(was_training)
        return [] if cancelled() else answers

    def _answers(self, model: Any, prompts: list[str], cancelled: Callable[[], bool]) -> list[str]:
        ids = [self.renderer.prompt_ids(self._messages(prompt)) for prompt in prompts]
        stops = self.renderer.stop_token_ids
        if has_rows_to_keep(model):
            tokens = likeliest(model, ids, stops, self.max_new_tokens, cancelled)
        else:
            tokens = self._generated(model, ids)
        texts = self.renderer.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _generated(self, model: Any, ids: list[list[int]]) -> list[list[int]]:
        """By transformers itself: models whose past has a form of its own."""
        pad, width = self.renderer.tokenizer.pad_token_id, max(map(len, ids))
        padded = [[pad] * (width - len(row)) + row for row in ids]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
        with torch.no_grad():
            output = model.generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=self.renderer.stop_token_ids,
                pad_token_id=pad,
            )
        tokens: list[list[int]] = output[:, width:].tolist()
        return tokens

    def _messages(self, prompt: str) -> list[dict[str, str]]:
        user = {"role": "user", "content": prompt}
        if self.system_prompt:
            return [{"role": "system", "content": self.system_prompt}, user]
        return [user]


def likeliest(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop_token_ids: Sequence[int],
    max_new_tokens: int,
    cancelled: Callable[[], bool] = never,
) -> list[list[int]]:
    """The likeliest token after each prompt, and after that, and so on; without the stop token.

    Args:
        model: In evaluation mode, without wrappers around its forward.
        cancelled: Asked before each token; answers then end where they are.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    stops, rows = set(stop_token_ids), list(range(len(prompts)))
    decoder = Decoder(model, prompts, will_train=True)
    logits = decoder.prefill()
    while True:
        tokens = logits.argmax(-1).tolist()
        left = [place for place, token in enumerate(tokens) if token not in stops]
        for place in left:
            answers[rows[place]].append(tokens[place])
        if not left or cancelled() or len(answers[rows[left[0]]]) == max_new_tokens:
            return answers
        if len(left) < len(rows):
            decoder.keep(left)
            rows, tokens = [rows[place] for place in left], [tokens[place] for place in left]
        logits = decoder.step(tokens)


def _bare(model: Any) -> Any:
    """The model below peft's wrapper and the trainer's autocast, with the adapter in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
