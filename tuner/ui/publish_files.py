"""
What is made of a run to be downloaded: merged weights, training script, notebook.

    exports = Exports(store.root)
    folder = exports.place(run)                  a new, empty folder; older ones of the run go
    exports.address(folder)                      "tuner/exports/RUN/KEY", once it is filled
    export_routes(exports, store, access)        what answers there

    <runs>/.exports/<run id>/<32 hex digits>/support-bot-merged/…

A folder with one file in it is sent as that file, anything else as a zip that is made while it is
sent: merged weights are large, and lie on the disk once. The address is the folder's, so it cannot
be guessed, and who asks must be allowed to see the run besides.
"""

import re
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from tuner.errors import RunError
from tuner.runs.store import Run, RunStore
from tuner.ui.access import Access
from tuner.ui.files import Download

FOLDER = ".exports"
KEY = re.compile(r"[0-9a-f]{32}")
KEPT_SECONDS = 6 * 3600


class Exports:
    """The folder of all exports.

    Args:
        runs_dir: Beside the runs, where room for large files is.
    """

    def __init__(self, runs_dir: Path):
        self.root = runs_dir / FOLDER

    def place(self, run: Run) -> Path:
        """A new folder for one export of this run.

        Raises:
            OSError: The disk is full, or may not be written to.
        """
        self.remove_old()
        folder = self.root / run.id / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder

    def address(self, folder: Path) -> str:
        """Where the browser gets what is in it, relative to the page."""
        return f"tuner/exports/{quote(folder.parent.name)}/{folder.name}"

    def find(self, run_id: str, key: str) -> Path | None:
        """The one thing in an export's folder, a file or a folder; None where there is none."""
        if not KEY.fullmatch(key):
            return None
        folder = self.root / run_id / key
        try:
            inside = list(folder.iterdir())
        except OSError:
            return None
        return inside[0] if len(inside) == 1 else None

    def drop(self, folder: Path) -> None:
        """Remove an export that is not wanted any more or was not finished."""
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # others of the run are there
            folder.parent.rmdir()

    def remove_old(self) -> None:
        """Remove what was made hours ago: it was fetched, or never will be."""
        for folder in self.root.glob("*/*"):
            try:
                old = time.time() - folder.stat().st_mtime > KEPT_SECONDS
            except OSError:
                continue
            if old:
                self.drop(folder)


def export_routes(exports: Exports, store: RunStore, access: Access) -> list[BaseRoute]:
    """The route of exports, to be put before Gradio's."""

    def found(request: Request) -> Download | None:
        given = request.path_params
        try:
            run = store.get(given["run_id"])
            if run.id != given["run_id"] or not access.may_see(request, run):
                return None
        except RunError:
            return None
        path = exports.find(run.id, given["key"])
        if path is None:
            return None
        if path.is_dir():
            return Download(f"{path.name}.zip", path.name, path, "application/zip")
        return Download(path.name, path.name, path, "application/octet-stream")

    async def send(request: Request) -> Response:
        download = await run_in_threadpool(found, request)
        if download is None:
            told = "There is no such export. Make it again in the Publish tab."
            return JSONResponse({"error": told}, 404)
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(download.name, safe='')}",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        return StreamingResponse(download.chunks(), media_type=download.media_type, headers=headers)

    return [Route("/tuner/exports/{run_id}/{key}", send)]
