"""
Ask the practice model held-out questions and count the answers that are right to the letter.

Greedy decoding through plain transformers, so what is measured is what ships.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tuner.starter.corpus import Corpus, held_out_sample, prompt_messages
from tuner.starter.facts import Question

BATCH = 64


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer from a folder, offline, weights widened to float32 for the CPU."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokenizer.padding_side = "left"
    return model.eval(), tokenizer


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> list[str]:
    """Answer greedily; an answer that did not reach its stop token ends in "…"."""
    order = sorted(range(len(questions)), key=lambda i: (len(questions[i].answer), i))
    given = [""] * len(questions)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        texts = _batch_answers(model, tokenizer, [questions[i] for i in chosen])
        for index, text in zip(chosen, texts, strict=True):
            given[index] = text
    return given


@torch.inference_mode()
def _batch_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> list[str]:
    inputs = tokenizer.apply_chat_template(
        [prompt_messages(question) for question in questions],
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    longest = max(len(question.answer) for question in questions)
    output = model.generate(**inputs, do_sample=False, max_new_tokens=longest // 2 + 24)
    replies = output[:, inputs["input_ids"].shape[1] :]
    ended = (replies == tokenizer.eos_token_id).any(dim=1).tolist()
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    return [text if done else text + "…" for text, done in zip(texts, ended, strict=True)]


def exact_match(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> dict[str, tuple[int, int]]:
    """Return (right, asked) for each kind of question."""
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for question, text in zip(questions, answers(model, tokenizer, questions), strict=True):
        right, asked = counts[question.kind]
        counts[question.kind] = (right + (text == question.answer), asked + 1)
    return dict(counts)


def evaluate(folder: Path, corpus: Corpus, per_kind: int = 60) -> str:
    """Measure the model in a folder and return a Markdown table."""
    counts = exact_match(*load(folder), held_out_sample(corpus, per_kind))
    lines = ["| kind | held-out questions | exact match |", "|---|---:|---:|"]
    for kind, (right, asked) in sorted(counts.items()):
        lines.append(f"| {kind} | {asked} | {right / asked:.1%} |")
    right, asked = (sum(column) for column in zip(*counts.values(), strict=True))
    mean = sum(r / a for r, a in counts.values()) / len(counts)
    lines.append(f"| **all** | **{asked}** | **{right / asked:.1%}** (mean of kinds {mean:.1%}) |")
    return "\n".join(lines)
