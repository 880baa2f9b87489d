"""
A run as a training script that needs nothing of ours:

    for path, content in training_script(run).items(): ...

    train.py            plain transformers, peft, trl, datasets; the run's own settings as literals
    requirements.txt    the versions that the run trained with
    README.md           two commands, and what to expect
    data/               the rows that trained and that were held out
    base/               the practice model, where that is the base: no hub has it
    chat_template.jinja where the base has no chat template of its own

The script repeats the run: same rows, order, labels and settings, and so the same loss curve.
Not covered: what a run added by being stopped and resumed; the script goes to the end in one go.
"""

from tuner.data.data_report import load_report
from tuner.export.rows import exported_rows
from tuner.export.script_text import RowFacts, Script, base_files
from tuner.runs.store import Run


def training_script(run: Run) -> dict[str, bytes | str]:
    """The files of the script, by their paths in its folder.

    Raises:
        RunError: The run is not prepared yet, or its labels cannot be made by plain code.
    """
    facts, rows = exported_rows(run)
    script = Script(run, facts)
    files: dict[str, bytes | str] = {
        "train.py": script.text(),
        "requirements.txt": "\n".join(script.requirements(versions(run))) + "\n",
        "README.md": readme(run, script, facts),
        **rows,
        **base_files(run.recipe()),
    }
    if facts.chat_template is not None:
        files["chat_template.jinja"] = facts.chat_template
    return files


def versions(run: Run) -> dict[str, str]:
    """Of the libraries that the run trained with; nothing where it has no result yet."""
    found: dict[str, str] = (run.result() or {}).get("versions", {})
    return found


def readme(run: Run, script: Script, facts: RowFacts) -> str:
    """How to run it, and what it should give."""
    parts = [
        f"# Training script of the run {in_markdown(run.id)}",
        "```sh\npip install -r requirements.txt\npython train.py\n```",
        what_it_does(script, facts),
        base_note(script),
        licence_note(run),
        expectation(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def what_it_does(script: Script, facts: RowFacts) -> str:
    """In two sentences."""
    kept = script.values["kept"]
    held_out = f" and evaluates on {facts.eval_rows:,} held-out ones" if facts.eval_rows else ""
    return (
        f"It trains on {facts.train_rows:,} rows{held_out}, with the settings of the run, and "
        f"writes `output/{kept}/` and the curves, `output/trainer_state.json`."
    )


def base_note(script: Script) -> str:
    """Where the base model comes from."""
    values = script.values
    if values["base_kind"] == "shipped":
        return "The base is Tuner's practice model, which is in `base/`."
    if values["base_kind"] == "folder":
        name = in_markdown(values["base_model"])
        return (
            f"The base is a folder that is not part of this export, {name}. Put it beside "
            "where you start the script, or say where it is: "
            "`BASE_MODEL=/path/to/folder python train.py`."
        )
    return (
        f"The base, {in_markdown(values['base_model'])}, is downloaded from the Hub. "
        "`BASE_MODEL` in the environment points elsewhere."
    )


def licence_note(run: Run) -> str:
    """What the data may be used for, where its source says so; the rows are in the export."""
    report = load_report(run.data_dir)
    licence = report["license"] if report else None
    return f"The licence of the data is {in_markdown(licence)}." if licence else ""


def expectation(run: Run) -> str:
    """The run's own losses, to compare with."""
    result = run.result() or {}
    if result.get("state") == "stopped":
        return (
            f"The run was stopped after step {result['steps']:,}; the script goes on to the end of "
            "its schedule."
        )
    before, after = result.get("base_eval_loss"), result.get("eval_loss")
    same = (
        "On the same hardware and with the same versions the losses come out as the run's; on "
        "others they differ in the last digits, and with dropout by chance."
    )
    if before is None or after is None:
        return same
    return f"In the run, the held-out loss went from {before:.4f} to {after:.4f}. {same}"


def in_markdown(text: str) -> str:
    """Somebody's text as code in Markdown, on one line."""
    return f"`{' '.join(text.replace('`', '').split())}`"
