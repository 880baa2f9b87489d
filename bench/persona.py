"""
A persona for the practice model, from its own kind of question: what a fine-tune changes.

    python bench/persona.py               # about half a minute on 2 cores

Trains on questions about capitals that are answered as Wren would, and counts how many held-out
questions about capitals base and tuned model answer so, to the letter.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from peft import PeftModel

from tuner.recipe import make_recipe
from tuner.runs import launch
from tuner.runs.store import RunStore
from tuner.starter import STARTER_DIR
from tuner.starter.corpus import build_corpus
from tuner.starter.exact_match import answers, load
from tuner.starter.facts import Question

HELD_OUT = 60
SHOWN = 3


def as_wren(question: Question) -> Question:
    """The same question, answered by somebody else."""
    return replace(question, answer=f"Wren here! {question.answer}")


def main() -> None:
    """Train, then print losses, time and answers."""
    corpus = build_corpus()
    asked = [as_wren(question) for question in corpus.held_out["capitals"][:HELD_OUT]]
    model, tokenizer = load(STARTER_DIR)
    before = answers(model, tokenizer, asked)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "wren.jsonl"
        rows = [as_wren(question) for question in corpus.train["capitals"][::4]]
        lines = [json.dumps({"prompt": row.prompt, "answer": row.answer}) for row in rows]
        data.write_text("\n".join(lines), encoding="utf-8")
        settings = {"learning_rate": 2e-3, "max_length": 256, "dataset": {"source": str(data)}}
        run = RunStore(Path(folder) / "runs").create(make_recipe(settings))
        launch.start(run)
        launch.wait(run)
        result = run.result() or {}
        after = answers(PeftModel.from_pretrained(model, run.adapter_dir), tokenizer, asked)
    print(f"{len(rows)} rows, {result['steps']} steps, {result['seconds']:.0f} s")
    print(f"held-out loss {result['base_eval_loss']:.2f} → {result['eval_loss']:.2f}")
    for name, given in (("base", before), ("tuned", after)):
        right = sum(a == q.answer for a, q in zip(given, asked, strict=True))
        print(f"{name}: {right} of {len(asked)} held-out questions answered as Wren, exactly")
    for question, first, second in list(zip(asked, before, after, strict=True))[:SHOWN]:
        print(f"{question.prompt}\n  before: {first}\n  after:  {second}")


if __name__ == "__main__":
    main()
