"""
Train a practice model from nothing, or measure one:

    python -m tuner.starter.build --out DIR     # corpus, tokenizer, about 14 minutes on 2 cores
    python -m tuner.starter.build --evaluate    # exact match on held-out questions, per kind

DIR stands for both: --evaluate --out DIR measures DIR. Without --out it is the model that ships.

Llama architecture, Muon for the matrices inside the layers and AdamW for the rest, warm-up and
cosine schedule, bf16 autocast, loss on assistant tokens only.
Not covered: fine-tuning it (tuner.training does that as for any other model).
"""

import argparse
import copy
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from tuner.starter import STARTER_DIR
from tuner.starter.corpus import Corpus, build_corpus, conversations
from tuner.starter.exact_match import evaluate
from tuner.starter.packing import Batch, batches
from tuner.starter.tokenizer import END, MAX_LENGTH, PAD, repository_texts, train_tokenizer

REPOSITORY = Path(__file__).parents[2]
LOG_EVERY = 50
SAVE_EVERY = 500
SPOKEN_FOR_TOKENIZER = 6000


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; the defaults made the model that ships."""

    steps: int = 4500
    batch_tokens: int = 1536
    matrix_rate: float = 0.01
    embedding_rate: float = 2.5e-3
    warmup_steps: int = 60
    seed: int = 0

    def factor(self, step: int) -> float:
        """Return the share of the peak rate: linear warm-up, then a cosine to 1%."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def new_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return a model with random weights; every width is a multiple of 64, as NF4 blocks need."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    return LlamaForCausalLM(config)


def new_tokenizer(corpus: Corpus, seed: int) -> PreTrainedTokenizerBase:
    """Train the tokenizer on some of the world and on the repository's own texts."""
    world = conversations(corpus, random.Random(seed))
    spoken = [
        message["content"]
        for _, turns in zip(range(SPOKEN_FOR_TOKENIZER), world, strict=False)
        for message in turns
    ]
    return train_tokenizer([*spoken, *repository_texts(REPOSITORY)])


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the assistant's tokens; other logits are never computed."""
    chosen = batch.targets != -100
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask(), use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[chosen])
    return functional.cross_entropy(logits.float(), batch.targets[chosen])


def optimizers_for(model: LlamaForCausalLM, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers, and AdamW for embeddings and norms.

    Muon makes a matrix's update orthogonal, which means nothing for a table of embeddings or a
    vector: https://kellerjordan.github.io/posts/muon
    """
    inside = [parameter for parameter in model.model.layers.parameters() if parameter.ndim > 1]
    known = {id(parameter) for parameter in inside}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return [
        torch.optim.Muon(inside, lr=schedule.matrix_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(
            rest, lr=schedule.embedding_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        ),
    ]


def train(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, schedule: Schedule, folder: Path
) -> None:
    """Train a new model; every 500 steps and at the end, write it to folder."""
    torch.manual_seed(schedule.seed)
    model = new_model(tokenizer)
    optimizers = optimizers_for(model, schedule)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    started = time.monotonic()
    for step, batch in zip(
        range(schedule.steps),
        batches(corpus, tokenizer, schedule.batch_tokens, schedule.seed),
        strict=False,
    ):
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * schedule.factor(step)
            optimizer.step()
            optimizer.zero_grad()
        if step % LOG_EVERY == 0 or step + 1 == schedule.steps:
            seconds = time.monotonic() - started
            print(f"step {step} loss {loss.item():.4f} {seconds:.0f} s", flush=True)
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step + 1 == schedule.steps:
            save(model, tokenizer, folder)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the model in bfloat16, its tokenizer and its generation settings."""
    model.generation_config = GenerationConfig(
        max_new_tokens=128,
        do_sample=False,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Train unless asked to measure only, then print the exact match of what is in the folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=STARTER_DIR,
        help="folder to write or to measure (default: the model that ships)",
    )
    parser.add_argument("--steps", type=int, default=Schedule.steps)
    parser.add_argument("--seed", type=int, default=Schedule.seed)
    parser.add_argument("--evaluate", action="store_true", help="measure only; train nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    corpus = build_corpus()
    if not arguments.evaluate:
        tokenizer = new_tokenizer(corpus, arguments.seed)
        schedule = Schedule(steps=arguments.steps, seed=arguments.seed)
        train(corpus, tokenizer, schedule, arguments.out)
    print(evaluate(arguments.out, corpus))


if __name__ == "__main__":
    main()
