"""`export`: what a run can leave as without the Hub: adapter, merged weights, script, notebook."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.answers import STOPPED, Answer
from tuner.cli.progress import Progress
from tuner.cli.recipe_options import JsonOption, RunsDirOption
from tuner.cli.run_commands import RUNS_DIR, RunArgument
from tuner.errors import RunError
from tuner.quantities import gigabytes
from tuner.runs.names import slug_of
from tuner.runs.store import Run, RunStore


class Form(StrEnum):
    """What is written."""

    ADAPTER = "adapter"
    MERGED = "merged"
    SCRIPT = "script"
    NOTEBOOK = "notebook"


def export(
    run: RunArgument,
    form: Annotated[
        Form,
        typer.Option(
            "--as",
            help="adapter (a zip), merged (16-bit weights with a Modelfile for Ollama), script "
            "(train.py that repeats the run), or notebook (the same).",
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="PATH", help="Where; else here, named after the run."),
    ] = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    as_json: JsonOption = False,
) -> Answer:
    """Write a run as an adapter zip, merged weights, a training script or a notebook."""
    found = RunStore(runs_dir).get(run)
    path = to or Path(f"{slug_of(found.id)}{SUFFIXES[form]}")
    _require_free(path)
    try:
        figures = WRITERS[form](found, path)
    except KeyboardInterrupt:
        told = "The export was ended. Nothing of it was kept."
        return Answer({"error": "Interrupted."}, exit_code=STOPPED, problems=(told,))
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{path} cannot be written: {reason}. Choose another path.") from error
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files)
    document = {"run": found.id, "as": form.value, "path": str(path)}
    counted = {"files": len(files), "bytes": size}
    return Answer({**document, **counted, **figures}, _text(path, len(files), size, figures))


def _adapter(run: Run, path: Path) -> dict[str, Any]:
    """The same files as a push, card included; no path of this machine is in them."""
    from tuner.export.zip_stream import zip_chunks
    from tuner.hub.bundle import write_bundle

    name = slug_of(run.id)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.absolute().parent) as aside:
        folder = Path(aside) / name
        folder.mkdir()
        write_bundle(run, folder, name)
        with _complete_or_absent(path) as unfinished, open(unfinished, "xb") as file:
            file.writelines(zip_chunks(folder))
    return {}


def _merged(run: Run, path: Path) -> dict[str, Any]:
    from tuner.export.merged import merge_run

    shown, stage, message = Progress(sys.stderr), "", dict[str, Any]()
    try:
        with closing(merge_run(run, path)) as messages:
            for message in messages:
                if message["total_bytes"] or message["stage"] != stage:
                    shown(_event(message))
                stage = message["stage"]
    finally:
        shown.close()
    figures = ("dtype", "logits_difference", "tolerance", "adapter_effect", "notes")
    return {name: message[name] for name in figures}


def _script(run: Run, path: Path) -> dict[str, Any]:
    from tuner.export.script import training_script

    files = training_script(run)
    with _complete_or_absent(path) as unfinished:
        for name, content in files.items():
            inside = unfinished / name
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.write_bytes(content.encode() if isinstance(content, str) else content)
    return {}


def _notebook(run: Run, path: Path) -> dict[str, Any]:
    from tuner.export.notebook import notebook

    content = notebook(run)
    with _complete_or_absent(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")
    return {}


SUFFIXES = {
    Form.ADAPTER: "-adapter.zip",
    Form.MERGED: "-merged",
    Form.SCRIPT: "-script",
    Form.NOTEBOOK: ".ipynb",
}
WRITERS: dict[Form, Callable[[Run, Path], dict[str, Any]]] = {
    Form.ADAPTER: _adapter,
    Form.MERGED: _merged,
    Form.SCRIPT: _script,
    Form.NOTEBOOK: _notebook,
}


def _require_free(path: Path) -> None:
    if os.path.lexists(path):
        raise RunError(f"{path} exists, and is not overwritten. Choose another path with --to.")
    if not path.parent.is_dir():
        raise RunError(f"There is no folder {path.parent} to write to. Make it first.")


@contextmanager
def _complete_or_absent(path: Path) -> Iterator[Path]:
    """A file or folder under a name of its own until all of it is there."""
    unfinished = path.with_name(f"{path.name}.writing")
    _remove(unfinished)
    try:
        yield unfinished
        os.rename(unfinished, path)
    finally:
        _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _event(message: Any) -> dict[str, Any]:
    """A stage as a terminal shows it: bytes where there are any, else its name once."""
    stage, total = message["stage"], message["total_bytes"]
    if not total:
        return {"kind": "log", "message": stage}
    figures = {"done": message["done_bytes"], "total": total, "unit": "bytes"}
    return {"kind": "progress", "what": stage, **figures}


def _text(path: Path, files: int, size: int, figures: dict[str, Any]) -> str:
    many = f"{files} files" if files > 1 else "1 file"
    lines = [f"Wrote {path} ({many}, {gigabytes(size)})."]
    if figures:
        lines += [
            f"{figures['dtype']}; its logits differ from base and adapter by "
            f"{figures['logits_difference']:.2%} of their spread, which is rounding.",
            *figures["notes"],
        ]
    return "\n".join(lines)
