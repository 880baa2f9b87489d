"""`push`: a run's adapter, or its merged weights, to the Hub."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.answers import BAD_INPUT, FAILED, STOPPED, Answer
from tuner.cli.progress import Progress
from tuner.cli.recipe_options import JsonOption, RunsDirOption
from tuner.cli.run_commands import RUNS_DIR, RunArgument
from tuner.errors import HubError, RecipeError
from tuner.quantities import gigabytes
from tuner.runs.store import Run, RunStore

STAGES = {
    "checking": "Checking the target",
    "merging": "Merging the adapter into the base",
    "hashing": "Reading the files",
    "uploading": "Uploading",
    "committing": "Committing",
    "verifying": "Reading back what the Hub has",
}
NOTHING_SENT = ("", "checking", "hashing", "merging")


def push(
    run: RunArgument,
    repo: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="The repo; it is made if it is missing.")
    ],
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who may see a new repo: you alone, or all.")
    ] = True,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="A branch; else main.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Push 16-bit weights with the adapter merged in.")
    ] = False,
    overwrite: Annotated[
        str,
        typer.Option(
            "--yes-overwrite",
            metavar="USER/NAME",
            help="Replace what the repo holds; give its name once more.",
        ),
    ] = "",
    card: Annotated[
        Path | None,
        typer.Option("--card", metavar="FILE", help="README.md as it is to be, not a new one."),
    ] = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: JsonOption = False,
) -> Answer:
    """Push a run's adapter to the Hub, private unless told otherwise.

    As whom: HF_TOKEN, or the login of this machine (`hf auth login`).
    """
    # Here, because other commands need nothing of it.
    from tuner.hub.target import Target

    found = RunStore(runs_dir).get(run)
    text = _card_text(card)
    return _push(found, Target(repo, private, revision, overwrite), text, merged)


def _push(run: Run, target: Any, card: str | None, merged: bool) -> Answer:
    from tuner.hub.api import machine_token
    from tuner.hub.publish import publish_run

    shown, stage = Progress(sys.stderr), ""
    try:
        with closing(publish_run(run, target, machine_token(), card, merged)) as messages:
            for message in messages:
                if message["kind"] == "pushed":
                    shown.close()
                    return _pushed(run, target.repo, message)
                if message["total_bytes"] or message["stage"] != stage:
                    shown(_event(message))
                stage = message["stage"]
    except HubError as error:
        shown.close()
        problems = tuple(_with_option(problem, target) for problem in error.problems)
        document = {"error": "\n".join(problems), "problems": list(problems)}
        return Answer(
            document, exit_code=BAD_INPUT if stage in NOTHING_SENT else FAILED, problems=problems
        )
    except KeyboardInterrupt:
        shown.close()
        return Answer(
            {"error": "Interrupted."},
            exit_code=STOPPED,
            problems=("The push was ended. Push again to go on: what has arrived is kept.",),
        )
    raise AssertionError("a push ends with `pushed` or an error")


def _pushed(run: Run, repo: str, message: Any) -> Answer:
    document = {"run": run.id, "repo": repo, **message}
    del document["kind"]
    size = f"{message['files']} files, {gigabytes(message['bytes'])}"
    if message["unchanged"]:
        return Answer(document, f"{message['url']} holds exactly this already ({size}).")
    return Answer(document, f"Pushed to {message['url']} ({size}), commit {message['commit'][:8]}.")


def _event(message: Any) -> dict[str, Any]:
    """A stage as the line of a run shows it: bytes where there are any, else its name once."""
    what, total = STAGES.get(message["stage"], message["stage"]), message["total_bytes"]
    if not total:
        return {"kind": "log", "message": what}
    return {
        "kind": "progress",
        "what": what,
        "done": message["done_bytes"],
        "total": total,
        "unit": "bytes",
    }


def _with_option(problem: str, target: Any) -> str:
    """The same sentence with the option by which a shell does it."""
    asks = f"confirm with its name, {target.repo},"
    problem = problem.replace(asks, f"add --yes-overwrite {target.repo},")
    return problem.replace("push publicly on purpose", "push publicly with --public")


def _card_text(card: Path | None) -> str | None:
    if card is None:
        return None
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise RecipeError(f"--card {card} cannot be read as text. Give a README.md.") from None
