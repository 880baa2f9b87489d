"""`deploy`: make a Space of this app, or bring one up to date; first say what it will cost."""

import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tuner.cli.answers import BAD_INPUT, FAILED, STOPPED, Answer
from tuner.cli.progress import Progress
from tuner.cli.push import STAGES
from tuner.cli.recipe_options import JsonOption
from tuner.errors import HubError, RecipeError
from tuner.quantities import gigabytes

if TYPE_CHECKING:
    from tuner.hub.deploy import SpaceFacts
    from tuner.hub.space_plan import SpacePlan

OUR_STAGES = {
    "checking": "Checking the Space",
    "creating": "Making the Space",
    "configuring": "Setting its variables and secrets",
}
NOTHING_MADE = ("", "checking", "creating")


def deploy(
    space: Annotated[
        str, typer.Argument(metavar="USER/SPACE", help="The Space; it is made if it is missing.")
    ],
    hardware: Annotated[
        str, typer.Option("--hardware", metavar="FLAVOR", help="What it runs on: t4-small, l4x1, …")
    ] = "cpu-basic",
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who may open it: you alone, or everybody.")
    ] = True,
    sleep: Annotated[
        int,
        typer.Option(
            "--sleep",
            metavar="MINUTES",
            help="Paid hardware sleeps after so long without a visitor; 0: never.",
        ),
    ] = 480,
    training: Annotated[
        Literal["owner", "signed-in"],
        typer.Option("--training", help="Who may train there: you alone, or whoever signs in."),
    ] = "owner",
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="NAME",
            help="A variable of this shell that the Space gets as a secret; may be repeated.",
        ),
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(
            "--bucket", metavar="USER/NAME", help="Storage for /data, which outlives a restart."
        ),
    ] = None,
    overwrite: Annotated[
        str,
        typer.Option(
            "--yes-overwrite",
            metavar="USER/SPACE",
            help="Replace what the Space holds; give its name once more.",
        ),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Make a Space of this app, private and for you alone unless told otherwise.

    As whom: HF_TOKEN, or the login of this machine (`hf auth login`).
    """
    # Here, because other commands need nothing of it.
    from tuner.hub.api import machine_token
    from tuner.hub.deploy import check_space
    from tuner.hub.space_plan import SpacePlan

    plan = SpacePlan(
        space,
        private=private,
        hardware=hardware,
        sleep_minutes=sleep or None,
        secrets=_values(secret or ()),
        training=training,
        bucket=bucket,
        overwrite=overwrite,
    )
    token = machine_token()
    try:
        facts = check_space(plan, token)
    except HubError as error:
        return _refused(plan, error, BAD_INPUT)
    print(plan_text(plan, facts), file=sys.stderr)
    if not yes:
        _ask(plan, as_json)
    return _deploy(plan, facts, token)


def plan_text(plan: "SpacePlan", facts: "SpaceFacts") -> str:
    """What will be made, and what it will cost."""
    does = "Brings up to date" if facts.target.exists else "Makes"
    seen = "private" if facts.target.private else "public"
    trains = "its owner alone" if plan.training == "owner" else "whoever signs in"
    disk = f"the bucket {plan.bucket}, on /data" if plan.bucket else "gone at every restart"
    lines = [
        f"{does} the {seen} Space {facts.target.url}",
        f"Files     {facts.files}, {gigabytes(facts.bytes)}",
        f"Hardware  {plan.hardware}",
        *(f"          {sentence}" for sentence in facts.cost),
        f"Training  {trains}",
        f"Runs      {disk}",
    ]
    if plan.secrets:
        lines.append(f"Secrets   {', '.join(plan.secrets)}")
    return "\n".join(lines)


def _deploy(plan: "SpacePlan", facts: "SpaceFacts", token: str | None) -> Answer:
    from tuner.hub.deploy import deploy_space

    shown, stage = Progress(sys.stderr), ""
    try:
        with closing(deploy_space(plan, token)) as messages:
            for message in messages:
                if message["kind"] == "deployed":
                    shown.close()
                    return _deployed(plan, facts, message)
                if message["total_bytes"] or message["stage"] != stage:
                    shown(_event(message))
                stage = message["stage"]
    except HubError as error:
        shown.close()
        return _refused(plan, error, BAD_INPUT if stage in NOTHING_MADE else FAILED)
    except KeyboardInterrupt:
        shown.close()
        return Answer(
            {"error": "Interrupted."},
            exit_code=STOPPED,
            problems=(f"Ended. Look at {facts.target.url}: it may exist by now, and cost.",),
        )
    raise AssertionError("deploying ends with `deployed` or an error")


def _refused(plan: "SpacePlan", error: HubError, exit_code: int) -> Answer:
    problems = tuple(_with_option(problem, plan.repo) for problem in error.problems)
    document = {"error": "\n".join(problems), "problems": list(problems)}
    return Answer(document, exit_code=exit_code, problems=problems)


def _deployed(plan: "SpacePlan", facts: "SpaceFacts", message: Any) -> Answer:
    document = {
        "space": plan.repo,
        **{name: value for name, value in message.items() if name != "kind"},
        "hardware": plan.hardware,
        "dollars_per_hour": facts.price.dollars,
    }
    return Answer(
        document,
        f"{message['url']} is there, commit {message['commit'][:8]}. The Hub builds it now, which "
        "takes some minutes.",
    )


def _event(message: Any) -> dict[str, Any]:
    what = OUR_STAGES.get(message["stage"]) or STAGES.get(message["stage"], message["stage"])
    if not message["total_bytes"]:
        return {"kind": "log", "message": what}
    figures = {"done": message["done_bytes"], "total": message["total_bytes"], "unit": "bytes"}
    return {"kind": "progress", "what": what, **figures}


def _values(names: Any) -> dict[str, str]:
    """Of variables of this shell: a value on the command line would be read by others.

    Raises:
        RecipeError: One is not set.
    """
    problems = [_not_set(name) for name in names if not os.environ.get(name)]
    if problems:
        raise RecipeError(problems)
    return {name: os.environ[name] for name in names}


def _not_set(name: str) -> str:
    if name.isidentifier() and name.isupper():
        return (
            f"--secret {name}: this shell has no such variable. Set it before, such as by "
            f"`read -rs {name} && export {name}`."
        )
    # Not said again: it may be the secret itself.
    return "--secret takes the name of a variable of this shell, in capitals, and never its value."


def _ask(plan: "SpacePlan", as_json: bool) -> None:
    if as_json:
        raise RecipeError(f"Deploying {plan.repo} may cost money. Add --yes to do it.")
    typer.confirm("Go on?", abort=True, err=True)


def _with_option(problem: str, repo: str) -> str:
    """The same sentence with the option by which a shell does it."""
    problem = problem.replace(f"confirm with its name, {repo},", f"add --yes-overwrite {repo},")
    return problem.replace("push publicly on purpose", "add --public")
