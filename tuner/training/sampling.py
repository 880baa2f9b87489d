"""
Let a model in training answer a few fixed prompts, so that its change can be read.

Greedy, all prompts in one left-padded batch, with the random state left as it was: a run with
samples and one without end in the same weights.
"""

from typing import Any

import torch

from tuner.data.rendering import Renderer


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

    def answer(self, model: Any, prompts: list[str]) -> list[str]:
        """Greedy answers, one for each prompt, without the stop token."""
        if not prompts:
            return []
        was_training = model.training
        model.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            answers = self._generate(model, prompts)
        model.train(was_training)
        return answers

    def _generate(self, model: Any, prompts: list[str]) -> list[str]:
        tokenizer = self.renderer.tokenizer
        ids = [self.renderer.prompt_ids(self._messages(prompt)) for prompt in prompts]
        width = max(map(len, ids))
        padded = [[tokenizer.pad_token_id] * (width - len(row)) + row for row in ids]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
        output = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=self.renderer.stop_token_ids,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _messages(self, prompt: str) -> list[dict[str, str]]:
        user = {"role": "user", "content": prompt}
        if self.system_prompt:
            return [{"role": "system", "content": self.system_prompt}, user]
        return [user]
