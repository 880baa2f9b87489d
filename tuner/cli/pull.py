"""`pull`: bring a run back from the Hub that was pushed at every save."""

import sys
from typing import Annotated, Any

import typer

from tuner.cli.answers import STOPPED, Answer
from tuner.cli.progress import Progress
from tuner.cli.recipe_options import JsonOption, RunsDirOption
from tuner.cli.run_commands import RUNS_DIR
from tuner.quantities import gigabytes
from tuner.runs.store import RunStore


def pull(
    repo: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="The repo that push_every_save pushed to.")
    ],
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="COMMIT", help="An earlier copy: a commit or branch."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Call the run otherwise than it was."),
    ] = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: JsonOption = False,
) -> Answer:
    """Bring a run back from the Hub, to be resumed or talked to here.

    As whom: HF_TOKEN, or the login of this machine (`hf auth login`).
    """
    # Here, because other commands need nothing of it.
    from tuner.hub.api import machine_token
    from tuner.hub.pull import pull_run

    shown = Progress(sys.stderr)

    def progress(done: int, total: int) -> None:
        what = f"Downloading {repo}"
        shown({"kind": "progress", "what": what, "done": done, "total": total, "unit": "bytes"})

    try:
        pulled = pull_run(
            RunStore(runs_dir),
            repo,
            machine_token(),
            revision=revision,
            name=name,
            progress=progress,
        )
    except KeyboardInterrupt:
        problems = ("The pull was ended, and nothing of it is kept.",)
        return Answer({"error": "Interrupted."}, exit_code=STOPPED, problems=problems)
    finally:
        shown.close()
    return Answer(pulled, _text(pulled))


def _text(pulled: Any) -> str:
    run, size = pulled["run"], gigabytes(pulled["bytes"])
    if pulled["state"] == "completed":
        what = f"It completed. Talk to it: python -m tuner chat {run}"
    else:
        what = f"It is at step {pulled['step']:,}. Go on: python -m tuner resume {run}"
    lines = [f"Pulled {run} from {pulled['repo']} ({size}).", what]
    if pulled["pushes"] and pulled["state"] != "completed":
        lines.append(f"It will be pushed to {pulled['repo']} at every save, as before.")
    return "\n".join(lines)
