"""
Twenty people talk to the built-in model at once, base and an adapter side by side, for a minute.

    python bench/chatters.py              # about 80 seconds on 2 cores

Each asks the next question when the last is answered, without thinking, and every question has a
number that only its chatter asks about. Before, each question is asked alone; greedy answers in
float32 are the same in whatever batch, so any other text is a mixed-up one.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tuner.chat.client import ChatClient
from tuner.chat.voices import Base, Row, Sampling, Voice
from tuner.errors import TunerError
from tuner.starter import STARTER_DIR

BASE = Base("starter", None, "none", "float32")
QUESTIONS = 3  # of each chatter, over and over
TEXTS = (
    "What is {number} plus {number}?",
    "I have {number} apples. Write a sentence about them.",
    "Tell me something about the number {number}.",
)


@dataclass
class Turn:
    """One question of one chatter, in seconds since it was asked."""

    chatter: int
    first_seconds: float
    seconds: float
    tokens: int
    mixed_up: bool = False
    error: str = ""


def question(chatter: int, number: int) -> str:
    """What only this chatter asks."""
    return TEXTS[number % len(TEXTS)].format(number=100 + chatter * QUESTIONS + number)


def save_adapter(folder: Path) -> str:
    """An adapter that changes the answers, made without training."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(STARTER_DIR)
    model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01)
    model.save_pretrained(folder)
    return str(folder)


class Room:
    """All chatters, one client, and what each question's answers are alone."""

    def __init__(self, client: ChatClient, adapter: str, max_new_tokens: int):
        self.client = client
        self.voices = (Voice("base"), Voice("tuned", adapter=adapter))
        self.sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0)
        self.alone: dict[str, list[str]] = {}

    def ask(self, text: str) -> tuple[list[str], float, int]:
        """Both answers, seconds to the first text, and tokens."""
        began, first = time.perf_counter(), 0.0
        answers, tokens = ["", ""], [0, 0]
        message = {"role": "user", "content": text}
        rows = [Row(voice, (message,), self.sampling) for voice in self.voices]
        for piece in self.client.generate(BASE, rows):
            first = first or time.perf_counter() - began
            answers[piece["row"]] += piece["text"]
            tokens[piece["row"]] = piece["tokens"]
        return answers, first, sum(tokens)

    def ask_alone(self, chatters: int) -> None:
        """Learn what the answers are."""
        texts = [question(c, number) for c in range(chatters) for number in range(QUESTIONS)]
        self.alone = {text: self.ask(text)[0] for text in texts}

    def chat(self, chatter: int, until: float) -> Iterator[Turn]:
        """One chatter, question after question."""
        number = 0
        while (began := time.perf_counter()) < until:
            text = question(chatter, number % QUESTIONS)
            number += 1
            try:
                answers, first, tokens = self.ask(text)
                mixed_up, error = answers != self.alone[text], ""
            except TunerError as failure:
                first, tokens, mixed_up, error = 0.0, 0, False, str(failure)
            yield Turn(chatter, first, time.perf_counter() - began, tokens, mixed_up, error)


def report(turns: list[Turn], room: Room, chatters: int, seconds: float, alone: float) -> None:
    """Print the table."""
    pairs = {tuple(answers) for answers in room.alone.values()}
    answered = [turn for turn in turns if not turn.error]
    counts = [sum(turn.chatter == chatter for turn in answered) for chatter in range(chatters)]
    tokens = sum(turn.tokens for turn in answered)
    print("| | |")
    print("|---|--:|")
    print(f"| chatters, seconds | {chatters}, {seconds:.0f} |")
    print(f"| questions answered (two answers each) | {len(answered)} |")
    print(f"| different questions, different pairs of answers | {len(room.alone)}, {len(pairs)} |")
    print(f"| mixed-up texts | {sum(turn.mixed_up for turn in answered)} |")
    print(f"| errors | {len(turns) - len(answered)} |")
    print(f"| questions a chatter, fewest and most | {min(counts)}, {max(counts)} |")
    print(f"| to the first text: median, 95%, max | {spread(t.first_seconds for t in answered)} |")
    print(f"| to both answers: median, 95%, max | {spread(t.seconds for t in answered)} |")
    print(f"| tokens/s, all together | {tokens / seconds:.0f} |")
    print(f"| tokens/s, one alone | {alone:.0f} |")
    for error in sorted({turn.error for turn in turns if turn.error}):
        print(error)


def spread(values: Iterator[float]) -> str:
    """Median, 95% and maximum, in seconds."""
    ordered = sorted(values)
    most = ordered[int(0.95 * (len(ordered) - 1))]
    return f"{median(ordered):.2f}, {most:.2f}, {ordered[-1]:.2f} s"


def main() -> None:
    """Ask alone, then all together."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--chatters", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ChatClient(Path(folder) / "log") as client:
        adapter = save_adapter(Path(folder) / "adapter")
        room = Room(client, adapter, options.max_new_tokens)
        room.ask("Hello")  # loads
        room.ask_alone(options.chatters)
        began = time.perf_counter()
        tokens = sum(room.ask(question(0, number))[2] for number in range(QUESTIONS))
        alone = tokens / (time.perf_counter() - began)
        began = time.perf_counter()
        until = began + options.seconds
        with ThreadPoolExecutor(options.chatters) as threads:
            chats = threads.map(lambda c: list(room.chat(c, until)), range(options.chatters))
            turns = [turn for chat in chats for turn in chat]
        report(turns, room, options.chatters, time.perf_counter() - began, alone)


if __name__ == "__main__":
    main()
