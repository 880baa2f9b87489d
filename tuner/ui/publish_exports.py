"""
What the Publish tab gives without the Hub: merged weights with a Modelfile, training script,
notebook. Each is made in a folder of its own (publish_files.py) and then fetched by the browser.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from tuner.errors import TunerError
from tuner.runs.names import slug_of
from tuner.runs.store import Run
from tuner.ui.form_updates import Updates
from tuner.ui.markup import element, notes
from tuner.ui.publish import Publishing
from tuner.ui.publish_files import Exports
from tuner.ui.publish_rights import run_to_publish
from tuner.ui.publish_steps import Steps, one_merge
from tuner.ui.publish_view import now_and_then, problems_html, progress_html
from tuner.ui.services import Services

Fill = Callable[[Run, Path], Steps]


class ExportEvents:
    """Handlers of the buttons; each tells how far it is, and then where the result is."""

    def __init__(self, tab: Publishing, services: Services):
        self.tab, self.services = tab, services
        self.exports = Exports(services.store.root)

    # Generators themselves: Gradio does not see one that is only returned.

    def merged(self, run_id: str | None, request: gr.Request) -> Iterator[Updates]:
        yield from self._export(run_id, request, merged_files)

    def script(self, run_id: str | None, request: gr.Request) -> Iterator[Updates]:
        yield from self._export(run_id, request, script_files)

    def notebook(self, run_id: str | None, request: gr.Request) -> Iterator[Updates]:
        yield from self._export(run_id, request, notebook_file)

    def cancelled(self) -> Updates:
        return {
            self.tab.cancel_export: gr.update(visible=False),
            self.tab.export_said: notes(["Cancelled. Nothing of it was kept."]),
        }

    def failed(self) -> Updates:
        """What nobody foresaw; the log has it."""
        told = "That failed in a way that was not foreseen; the app's log says more."
        return {
            self.tab.cancel_export: gr.update(visible=False),
            self.tab.export_said: notes([told], "problem"),
        }

    def _export(self, run_id: str | None, request: gr.Request, fill: Fill) -> Iterator[Updates]:
        folder: Path | None = None
        try:
            run = run_to_publish(self.services, run_id, request)
            folder = self.exports.place(run)
            with closing(fill(run, folder)) as steps:
                for step in now_and_then(steps):
                    yield self._shown(progress_html(step), cancel=True)
            address, folder = self.exports.address(folder), None
        except (TunerError, OSError) as error:
            yield self._shown(problems_html(error))
            return
        finally:
            if folder is not None:
                self.exports.drop(folder)  # cancelled, or it failed
        link = element("a", "Save it again", href=address, download="")
        ready = element("p", "✓ Ready. ", inner=link, class_="tuner-done", role="status")
        yield self._shown(ready, address)

    def _shown(self, told: str, address: str = "", *, cancel: bool = False) -> Updates:
        return {
            self.tab.export_said: told,
            self.tab.address: address,
            self.tab.cancel_export: gr.update(visible=cancel),
        }


def merged_files(run: Run, folder: Path) -> Steps:
    """Merged 16-bit weights with a Modelfile for Ollama."""
    from tuner.export.merged import merge_run

    yield from one_merge(merge_run(run, folder / f"{slug_of(run.id)}-merged"))


def script_files(run: Run, folder: Path) -> Steps:
    """The plain training script, with what it needs."""
    from tuner.export.script import training_script

    yield _stage("Writing the script")
    inside = folder / f"{slug_of(run.id)}-script"
    for name, content in training_script(run).items():
        path = inside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def notebook_file(run: Run, folder: Path) -> Steps:
    """The same as a notebook."""
    from tuner.export.notebook import notebook

    yield _stage("Writing the notebook")
    (folder / f"{slug_of(run.id)}.ipynb").write_text(notebook(run), encoding="utf-8")


def _stage(words: str) -> dict[str, Any]:
    return {"kind": "progress", "stage": words, "done_bytes": 0, "total_bytes": 0}
