"""
What two answers cost: base and tuned model in one batch, beside everything else that could be done.

    python bench/playground.py             # about four minutes on 2 cores
    python bench/playground.py --rounds 9  # more of them

The built-in model, and a random Llama of 135 M parameters (SmolLM2-135M's shape) in bfloat16, 48
new tokens, greedy, adapters of r 16 on all linear layers. Ways take turns token by token, all in
the same loop, so that what else the machine does strikes all of them; seconds are those of a prompt
and 48 times the median token, and quiet ones those of the fastest tenth. "plain" is a batch of the
base alone: the least that decoding costs. Memory is the peak of a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read once, by torch's import below

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from tuner.base_models.lookup import find_base_model
from tuner.chat.engine import Engine
from tuner.chat.generation import Decoder
from tuner.chat.voices import Base, Row, Sampling, Voice
from tuner.data.tokenizer import load_tokenizer
from tuner.models.loading import load_base
from tuner.recipe import make_recipe
from tuner.starter import STARTER_DIR

NEW_TOKENS = 48
ADAPTERS = 4
QUESTION = ({"role": "user", "content": "What is the capital of France, and why is it so?"},)
SMOLLM2_135M = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CPU = torch.device("cpu")
PAIR, FIVE = "two base rows, plain", "five base rows, plain"
KINDS = ("median", "quiet")


def main() -> None:
    """Make models, let all ways take turns, print a table for each model."""
    arguments = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--memory-of", nargs="*", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if chosen.memory_of:
        print(peak_memory(*chosen.memory_of))
        return
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "llama-135m"
        save_random_llama(large)
        for name, base in (("built-in model", STARTER_DIR), ("random Llama, 135 M", large)):
            adapters = [
                save_adapter(base, Path(folder) / f"{base.name}-{n}", n) for n in range(ADAPTERS)
            ]
            print(f"\n{name}, bfloat16, {NEW_TOKENS} new tokens, load {os.getloadavg()[0]:.1f}")
            compare(base, adapters, chosen.rounds)
            show_memory(base, adapters)


def compare(base: Path, adapters: list[str], rounds: int) -> None:
    """Run and print all ways of getting a base's and an adapter's answer."""
    plain, merged, alone, mixed = (load(base) for _ in range(4))
    merged = PeftModel.from_pretrained(merged, adapters[0]).merge_and_unload().eval()
    alone = PeftModel.from_pretrained(alone, adapters[0]).eval()
    mixed = PeftModel.from_pretrained(mixed, adapters[0], adapter_name="tuned").eval()
    engine = Engine(Base(str(base), None, "none", "bfloat16"), CPU)
    for adapter in adapters:
        engine.attach(adapter)
    ids = engine.renderer.prompt_ids(QUESTION)

    def ours(*rows: str | None) -> Batch:
        return Batch(engine._base.model, ids, len(rows), engine._planner(rows)(range(len(rows))))

    tuned = alone.base_model.model  # beneath peft's wrapper, with its layers
    ways = {
        "base alone": [Batch(plain, ids)],
        "tuned alone, peft": [Batch(tuned, ids)],
        "the two in turn": [Batch(plain, ids), Batch(tuned, ids)],
        "two models in turn": [Batch(plain, ids), Batch(merged, ids)],
        "both, peft's mixed batch": [Batch(mixed.base_model.model, ids, 2)],
        PAIR: [ours(None, None)],
        "both, ours": [ours(None, adapters[0])],
        FIVE: [ours(*[None] * 5)],
        "base and four adapters, ours": [ours(None, *adapters)],
    }
    # As peft's own generate() does it, for all of an answer's tokens.
    with mixed.base_model._enable_peft_forward_hooks(adapter_names=["__base__", "tuned"]):
        taken = {name: Times() for name in ways}
        for _ in range(rounds):
            one_round(ways, taken)
    for name, times in taken.items():
        limit = FIVE if "four" in name else PAIR
        ratios = [f"{getattr(times, of) / getattr(taken[limit], of):.2f}x" for of in KINDS]
        print(
            f"  {name:30} {times.median:6.2f} s (quiet: {times.quiet:5.2f} s)   "
            f"{ratios[0]} (quiet: {ratios[1]}) of {limit}"
        )
    in_turn, together = taken["the two in turn"], taken["both, ours"]
    print(
        f"  both answers come {in_turn.median / together.median:.2f}x as fast as in turn "
        f"(quiet: {in_turn.quiet / together.quiet:.2f}x)"
    )
    print(f"  first token of both: {1000 * first_token(engine, adapters[0]):.0f} ms")


class Batch:
    """A model's answers to one question, token by token."""

    def __init__(self, model: Any, ids: list[int], rows: int = 1, plan: Any = None):
        self.model, self.prompts, self.plan = model, [ids] * rows, plan or nullcontext()

    def begin(self) -> None:
        """Read the question."""
        self.decoder = Decoder(self.model, self.prompts)
        self.tokens = self.decoder.prefill(self.plan).argmax(-1).tolist()

    def step(self) -> None:
        """Make one more token of each answer."""
        self.tokens = self.decoder.step(self.tokens, self.plan).argmax(-1).tolist()


@dataclass
class Times:
    """Seconds of one way's prompts and of its tokens."""

    prompts: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """A whole answer's seconds."""
        return statistics.median(self.prompts) + NEW_TOKENS * statistics.median(self.tokens)

    @property
    def quiet(self) -> float:
        """The same while the machine does little else."""
        return min(self.prompts) + NEW_TOKENS * statistics.quantiles(self.tokens, n=10)[0]


def one_round(ways: dict[str, list[Batch]], taken: dict[str, Times]) -> None:
    """All ways answer once, taking turns token by token."""
    for name, batches in ways.items():
        taken[name].prompts.append(seconds(Batch.begin, batches))
    for _ in range(NEW_TOKENS):
        for name, batches in ways.items():
            taken[name].tokens.append(seconds(Batch.step, batches))


def seconds(action: Callable[[Batch], None], batches: list[Batch]) -> float:
    """How long it takes, one batch after another."""
    began = time.perf_counter()
    for batch in batches:
        action(batch)
    return time.perf_counter() - began


def first_token(engine: Engine, adapter: str) -> float:
    """Seconds from the question to the first token of both answers."""
    rows = [Row(voice, QUESTION, Sampling(1)) for voice in (Voice("base"), Voice("tuned", adapter))]
    times = []
    for _ in range(9):
        began = time.perf_counter()
        list(engine.generate(rows))
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def show_memory(base: Path, adapters: list[str]) -> None:
    """Peak memory of processes that answer: the base alone, and with four adapters attached."""
    alone, together = (peak_of_child(base, chosen) for chosen in ([], adapters))
    files = sum(path.stat().st_size for a in adapters for path in Path(a).glob("*.safetensors"))
    print(
        f"  memory: base alone {alone / 2**20:.0f} MiB, adapters {files / 2**20:.0f} MiB, "
        f"together {together / 2**20:.0f} MiB: {together / (alone + files):.2f}x of their sum"
    )


def peak_of_child(base: Path, adapters: list[str]) -> int:
    """Run this file in a process of its own, which prints its peak."""
    command = [sys.executable, __file__, "--memory-of", str(base), *adapters]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_memory(base: str, *adapters: str) -> int:
    """Answer once with all adapters, or with as many rows of the base; bytes at the peak."""
    engine = Engine(Base(base, None, "none", "bfloat16"), CPU)
    for adapter in adapters:
        engine.attach(adapter)
    rows: list[str | None] = [None, *(adapters or [None] * ADAPTERS)]
    voices = [Voice(f"{number}", adapter) for number, adapter in enumerate(rows)]
    list(engine.generate([Row(voice, QUESTION, Sampling(NEW_TOKENS)) for voice in voices]))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def load(base: Path) -> Any:
    """The base as it answers."""
    recipe = make_recipe({"base_model": str(base)})
    found = find_base_model(str(base))
    return load_base(recipe, found, torch.bfloat16, CPU, for_inference=True).eval()


def save_random_llama(folder: Path) -> None:
    """A model of SmolLM2-135M's shape that has learned nothing, with our own tokenizer."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M)).to(torch.bfloat16).save_pretrained(folder)
    load_tokenizer(str(STARTER_DIR)).save_pretrained(folder)


def save_adapter(base: Path, folder: Path, seed: int) -> str:
    """A random adapter of rank 16 on all linear layers."""
    torch.manual_seed(seed)
    settings = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01)
    model.save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()
