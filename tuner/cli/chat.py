"""`chat`: ask the base and what was tuned from it, and read both answers side by side."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.chat.client import ChatClient
from tuner.chat.lineup import Lineup, base_lineup, default_sampling, find_lineup, joined
from tuner.chat.protocol import PieceMessage
from tuner.chat.voices import Row, Sampling
from tuner.cli.answers import STOPPED, Answer
from tuner.cli.panes import Panes
from tuner.cli.recipe_options import JsonOption, RunsDirOption
from tuner.cli.run_commands import RUNS_DIR
from tuner.errors import RecipeError, TunerError
from tuner.runs.store import RunStore

HINT = "/quit ends, Ctrl-C ends an answer."


@dataclass
class Conversation:
    """What one voice was asked and answered, and its answer to the last question."""

    name: str
    messages: list[dict[str, str]]
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def ask(self, prompt: str) -> None:
        self.messages.append({"role": "user", "content": prompt})
        self.text, self.tokens, self.seconds, self.notes = "", 0, 0.0, []

    def hear(self, piece: PieceMessage) -> None:
        self.text += piece["text"]
        self.tokens, self.seconds = piece["tokens"], piece["seconds"]
        self.notes += [note for note in piece["note"].splitlines() if note not in self.notes]

    def remember(self) -> None:
        """Make the answer a part of what comes before the next question."""
        self.messages.append({"role": "assistant", "content": self.text})

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "text": self.text,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }


def chat(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's id or name; or an adapter, by its folder or Hub id."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="Ask this and end.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="System prompt; else that of the run."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, help="0 is greedy; else the model's.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", min=0.01, max=1, help="Draw from the likeliest.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Length of an answer, at most.")
    ] = Sampling.max_new_tokens,
    seed: Annotated[
        int, typer.Option("--seed", help="The same seed and question give the same answer.")
    ] = Sampling.seed,
    base_only: Annotated[bool, typer.Option("--base-only", help="Ask the base alone.")] = False,
    checkpoint: Annotated[
        list[int] | None,
        typer.Option("--checkpoint", metavar="STEP", help="Ask this checkpoint too; repeatable."),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN", help="Ask this run too, on the same base."),
    ] = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: JsonOption = False,
) -> Answer:
    """Talk to the base and the tuned model side by side."""
    if as_json and prompt is None:
        raise RecipeError("--json answers one question. Give it with --prompt TEXT.")
    store = RunStore(runs_dir)
    lineup = _lineup(store, run, checkpoint or (), others or (), base_only)
    models = default_sampling(lineup.base)
    sampling = replace(
        models,
        max_new_tokens=max_new_tokens,
        temperature=models.temperature if temperature is None else temperature,
        top_p=models.top_p if top_p is None else top_p,
        seed=seed,
    )
    system = lineup.system_prompt if system is None else system
    with _client() as client:
        session = Session(client, lineup, sampling, system)
        if prompt is None:
            return session.talk()
        return session.ask_once(prompt, shown=not as_json)


class Session:
    """Conversations of all voices, each with its own answers to the same questions."""

    def __init__(
        self, client: ChatClient, lineup: Lineup, sampling: Sampling, system_prompt: str | None
    ):
        self.client, self.lineup, self.sampling = client, lineup, sampling
        first = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self.conversations = [Conversation(voice.name, list(first)) for voice in lineup.voices]

    def ask_once(self, prompt: str, shown: bool) -> Answer:
        """Answer one question; the answers are printed as they come if `shown`."""
        self._say_if_loading()
        try:
            self._answer(prompt, shown)
        except KeyboardInterrupt:
            return Answer({"error": "Interrupted."}, exit_code=STOPPED)
        for note in self._notes():
            print(note, file=sys.stderr)
        answers = [conversation.document() for conversation in self.conversations]
        return Answer({"prompt": prompt, "answers": answers})

    def talk(self) -> Answer:
        """Answer questions until there are no more."""
        names = ", ".join(conversation.name for conversation in self.conversations)
        print(f"Talking to {names}. {HINT}", file=sys.stderr)
        count = 0
        while (prompt := _question()) is not None:
            self._say_if_loading()
            try:
                self._answer(prompt, shown=True)
            except KeyboardInterrupt:
                print("\nThe answer was ended.", file=sys.stderr)
            except TunerError as error:
                self._take_back()
                print(error, file=sys.stderr)
                continue
            for note in self._notes():
                print(note, file=sys.stderr)
            for conversation in self.conversations:
                conversation.remember()
            count += 1
        return Answer({"questions": count})

    def _answer(self, prompt: str, shown: bool) -> None:
        for conversation in self.conversations:
            conversation.ask(prompt)
        rows = [
            Row(voice, tuple(conversation.messages), self.sampling)
            for voice, conversation in zip(self.lineup.voices, self.conversations, strict=True)
        ]
        panes = Panes(sys.stdout, [conversation.name for conversation in self.conversations])
        # Closed when a Ctrl-C comes between two pieces, which cancels the rest.
        with closing(self.client.generate(self.lineup.base, rows)) as pieces:
            try:
                for piece in pieces:
                    self.conversations[piece["row"]].hear(piece)
                    if shown:
                        panes.add(piece["row"], piece["text"], piece["done"])
            finally:
                if shown:
                    panes.close()

    def _take_back(self) -> None:
        """Forget a question that was not answered."""
        for conversation in self.conversations:
            conversation.messages.pop()

    def _notes(self) -> list[str]:
        return [
            f"{conversation.name}: {note}"
            for conversation in self.conversations
            for note in conversation.notes
        ]

    def _say_if_loading(self) -> None:
        if not self.client.is_loaded():
            print(f"Loading {self.lineup.base.model}", file=sys.stderr)


def _lineup(
    store: RunStore, run: str, steps: Sequence[int], others: Sequence[str], base_only: bool
) -> Lineup:
    if base_only:
        return base_lineup(store.get(run).recipe())
    return joined([find_lineup(run, store, steps), *(find_lineup(name, store) for name in others)])


@contextmanager
def _client() -> Iterator[ChatClient]:
    """A client whose engine logs to a file that is kept only when something went wrong."""
    log = Path(tempfile.mkdtemp(prefix="tuner-chat-")) / "chat.log"
    with ChatClient(log) as client:
        try:
            yield client
        except TunerError:
            print(f"The engine's log is {log}.", file=sys.stderr) if log.exists() else None
            raise
    log.unlink(missing_ok=True)
    log.parent.rmdir()


def _question() -> str | None:
    """The next question; None at the end, which is /quit, Ctrl-D or Ctrl-C."""
    while True:
        try:
            text = input("\n> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return None
        if text.strip() in ("/quit", "/exit"):
            return None
        if text.strip():
            return text
