"""
Rows to tokens: ours beside the tokenizers library alone, and beside trl's own preparation.

    python bench/tokenizing.py                    # 100,000 rows, two tokenizers, about ten minutes
    python bench/tokenizing.py --rows 20000 --rounds 1 --long

The rows are made of the sentences of this project's sample data, from a seed. `encode_batch` gets
texts that are ready, in the larger of two batches that is faster, and its tokens are thrown away;
ours begins at the examples on disk and ends at token ids and labels on disk, with the report. All
take turns, so that what else the machine does strikes all of them; printed are medians.
"""

import argparse
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import psutil
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tuner.data.prepare import load_examples, prepare_dataset
from tuner.data.rendering import Renderer
from tuner.data.tokenized import tokenize
from tuner.data.tokenizer import complete_tokenizer, load_tokenizer
from tuner.presets import PRESETS_DIR
from tuner.recipe import DatasetSettings
from tuner.starter import STARTER_DIR
from tuner.starter.tokenizer import repository_texts, strings_in

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 49_152
BATCHES = (1000, 10_000)  # rows that encode_batch gets at once
SENTENCES, LONG_SENTENCES = 4.5, 60.0  # of an answer, on average
TRL_ROWS = 5000
# ChatML without {% generation %}, as most published templates are.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def sentences() -> list[str]:
    """Sentences and lines of the presets' sample data."""
    found = [
        sentence
        for path in sorted((PRESETS_DIR / "data").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
        for text in strings_in(json.loads(line))
        for sentence in re.split(r"(?<=[.?!])\s+|\n\n", text)
    ]
    return sorted({sentence.strip() for sentence in found if len(sentence) > 15})


def conversations(count: int, mean: float, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Questions and answers of about `mean` sentences; their lengths spread as in instructions."""
    draw, words = random.Random(seed), sentences()
    for number in range(count):
        asked = draw.choices(words, k=draw.randint(1, 2))
        said = draw.choices(words, k=max(1, round(draw.lognormvariate(0, 0.8) * mean * 0.73)))
        yield {
            "question": f"{' '.join(asked)} ({number * 7919 % 1_000_003})",
            "answer": " ".join(said),
        }


def large_tokenizer() -> Any:
    """A tokenizer as large as SmolLM2's, trained here on this project's text and many numbers."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = (f" {number}" for number in range(10_000, 99_999))
    backend.train_from_iterator([*repository_texts(ROOT), *numbers], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )
    return complete_tokenizer(tokenizer, "large")


def bare(backend: Tokenizer, texts: list[str], rows: int, fast: bool = False) -> int:
    """Tokens that the library alone makes of ready texts, `rows` at a time."""
    encode = backend.encode_batch_fast if fast else backend.encode_batch
    return sum(
        len(encoding)
        for begin in range(0, len(texts), rows)
        for encoding in encode(texts[begin : begin + rows], add_special_tokens=False)
    )


def trl_rows(tokenizer: Any, rows: list[dict[str, Any]], max_length: int) -> int:
    """Rows that trl's SFTTrainer prepares, as bench/plain_trl.py has it."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**size, num_attention_heads=1, vocab_size=len(tokenizer)))
    asked = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(output_dir=folder, max_length=max_length, report_to="none", use_cpu=True)
        data = Dataset.from_list(asked)
        begun = time.perf_counter()
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=data, processing_class=tokenizer
        )
        print(f"  (trl's set-up included: {time.perf_counter() - begun:.1f} s)")
    return len(trainer.train_dataset)


class Stopwatch:
    """Seconds on the clock and of the processors, by name; medians over the rounds."""

    def __init__(self) -> None:
        self.laps: dict[str, list[tuple[float, float]]] = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        clock, processors = time.perf_counter(), processor_seconds()
        made = work()
        lap = time.perf_counter() - clock, processor_seconds() - processors
        self.laps.setdefault(name, []).append(lap)
        return made

    def seconds(self, name: str) -> tuple[float, float]:
        return tuple(median(lap[i] for lap in self.laps[name]) for i in range(2))  # type: ignore[return-value]


def processor_seconds() -> float:
    """Of this process, all its threads."""
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def race(name: str, tokenizer: Any, examples: Dataset, folder: Path, chosen: Any) -> None:
    """Print a table for one tokenizer."""
    renderer = Renderer(tokenizer, chosen.max_length)
    backend, watch = tokenizer.backend_tokenizer, Stopwatch()
    rows = examples.to_list()
    written = watch.time("ours: texts and answers", lambda: renderer.write(rows))
    texts = [text.text for text in written]
    watch.time("ours: tokens and labels", lambda: renderer.encode(written))
    tokens = bare(backend, texts, BATCHES[0])
    for _ in range(chosen.rounds):
        for size in BATCHES:
            work = partial(bare, backend, texts, size)
            watch.time(f"encode_batch, {size:,} rows at once", work)
            watch.time(f"encode_batch_fast, {size:,} rows at once", partial(work, fast=True))
        watch.time("ours, all of it", lambda: tokenize(examples, renderer, folder / "t.arrow"))
    some = rows[:TRL_ROWS]
    watch.time(f"trl, {len(some):,} rows", lambda: trl_rows(tokenizer, some, chosen.max_length))
    print(f"\n{name}: {len(rows):,} rows, {tokens / len(rows):.0f} tokens each\n")
    print("| | seconds | processor seconds | rows/s | tokens/s |\n|---|--:|--:|--:|--:|")
    for what in watch.laps:
        clock, processors = watch.seconds(what)
        count = len(some) if what.startswith("trl") else len(rows)
        speed = f"{count / clock:,.0f} | {count / len(rows) * tokens / clock:,.0f}"
        print(f"| {what} | {clock:.2f} | {processors:.2f} | {speed} |")
    alone = [watch.seconds(f"encode_batch, {size:,} rows at once") for size in BATCHES]
    ours = watch.seconds("ours, all of it")
    print(f"\nOurs: {min(a[0] for a in alone) / ours[0]:.0%} of encode_batch's speed by the clock, "
          f"{min(a[1] for a in alone) / ours[1]:.0%} by processor time.")  # fmt: skip


def main() -> None:
    """Read, then race with both tokenizers."""
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--max-length", type=int, default=1024)
    options.add_argument("--long", action="store_true", help="answers of about 60 sentences")
    chosen = options.parse_args()
    mean = LONG_SENTENCES if chosen.long else SENTENCES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, watch = folder / "rows.jsonl", Stopwatch()
        lines = (json.dumps(row) + "\n" for row in conversations(chosen.rows, mean))
        source.write_text("".join(lines), encoding="utf-8")
        settings = DatasetSettings(source=str(source), eval_fraction=0)
        data = folder / "data"
        watch.time("read", lambda: prepare_dataset(settings, "sft", data))
        examples = watch.time("map", lambda: load_examples(data, "train"))
        read, mapped = watch.seconds("read"), watch.seconds("map")
        print(f"Reading and normalising: {read[0]:.1f} s ({read[1]:.1f} of processor), ", end="")
        print(f"{chosen.rows / read[0]:,.0f} rows/s; then {mapped[0]:.1f} s into Arrow.")
        practice = load_tokenizer(str(STARTER_DIR))
        race("Practice model, 4,096 tokens", practice, examples, folder, chosen)
        race(f"{VOCABULARY:,} tokens, ChatML", large_tokenizer(), examples, folder, chosen)


if __name__ == "__main__":
    main()
