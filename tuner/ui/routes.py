"""
What the page's elements ask for while they are open, beside what Gradio serves:

    demo.launch(app_kwargs={"routes": routes(store, Everyone())})

    tuner/runs                    the list
    tuner/runs/ID/live            one run's story; ?after=N&version=V what is new since, or 204
    tuner/runs/ID/files/NAME      a download
    tuner/compare?run=A&run=B     runs side by side
    tuner/static/…                the elements themselves

Everything is read only. A run that may not be seen answers exactly like one that does not exist.
Cheap answers are made in the event loop; whatever reads much is handed to a thread.
"""

from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tuner.errors import RunError
from tuner.runs.names import slug_of
from tuner.runs.store import Run, RunStore
from tuner.ui.access import Access
from tuner.ui.files import download
from tuner.ui.live import Line, LiveRun, LiveRuns, no_line
from tuner.ui.run_list import RunList, compare

STATIC_DIR = Path(__file__).parent / "static"
COMPARED = (2, 8)
SHOWN_CHARACTERS = 200
NO_STORE = {"Cache-Control": "no-store"}

Handler = Callable[[Request], Awaitable[Response]]


def routes(store: RunStore, access: Access, line: Line = no_line) -> list[BaseRoute]:
    """The routes, to be put before Gradio's.

    Args:
        access: Who may see which run.
        line: The ids of the runs that wait for their turn, the next one first.
    """
    answers = _Answers(LiveRuns(store, line), access)
    return [
        Route("/tuner/runs/{run_id}/live", _explained(answers.live)),
        Route("/tuner/runs", _explained(answers.list)),
        Route("/tuner/compare", _explained(answers.compare)),
        Route("/tuner/runs/{run_id}/files/{name}", _explained(answers.file)),
        Mount("/tuner/static", _Modules(directory=STATIC_DIR)),
    ]


class _Modules(StaticFiles):
    """The page's own files. Browsers ask each time whether they changed: an update brings all."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


class _Answers:
    def __init__(self, runs: LiveRuns, access: Access):
        self._runs, self._access = runs, access
        self._list = RunList(runs)

    async def live(self, request: Request) -> Response:
        run = await self._find(request, request.path_params["run_id"])
        asked = request.query_params
        after, version = _whole(asked.get("after")), asked.get("version")
        try:
            if run.is_quick(after):
                reply = run.reply(after, version)
            else:
                reply = await run_in_threadpool(run.reply, after, version)
        except RunError:
            self._runs.forget(run.run.id)
            raise _unknown(run.run.id) from None
        if reply is None:
            return Response(status_code=204, headers=NO_STORE)
        # The rest is the same for all who look, and encoded once.
        mine = b"true" if self._access.may_change(request, run.run) else b"false"
        return _json(b'%s,"may_change":%s}' % (reply[:-1], mine))

    async def list(self, request: Request) -> Response:
        fresh = self._list.is_fresh()
        lines = self._list.lines() if fresh else await run_in_threadpool(self._list.lines)
        seen = [line for run, line in lines if self._may_see(request, run)]
        return _json(b"[" + b",".join(seen) + b"]")

    async def compare(self, request: Request) -> Response:
        ids = list(dict.fromkeys(request.query_params.getlist("run")))
        if not COMPARED[0] <= len(ids) <= COMPARED[1]:
            return _refused(400, f"Choose {COMPARED[0]} to {COMPARED[1]} runs to compare.")
        runs = [await self._find(request, run_id) for run_id in ids]
        try:
            return _json(await run_in_threadpool(compare, runs))
        except RunError:
            raise RunError("One of these runs does not exist any more.") from None

    async def file(self, request: Request) -> Response:
        run = (await self._find(request, request.path_params["run_id"])).run
        name = request.path_params["name"]
        found = await run_in_threadpool(download, run, name)
        if found is None:
            return _refused(404, f"The run has no file {name[:SHOWN_CHARACTERS]!r}.")
        called = quote(f"{slug_of(run.id)}-{found.name}", safe="")
        names = f"filename=\"{found.name}\"; filename*=UTF-8''{called}"
        headers = {
            "Content-Disposition": f"attachment; {names}",
            "X-Content-Type-Options": "nosniff",
        }
        return StreamingResponse(
            found.chunks(), media_type=found.media_type, headers=NO_STORE | headers
        )

    async def _find(self, request: Request, run_id: str) -> LiveRun:
        """The run of exactly this id, if this person may see it."""
        try:
            live = self._runs.known(run_id)
            if live is None:
                live = await run_in_threadpool(self._runs.find, run_id)
        except RunError:
            raise _unknown(run_id) from None
        if not self._may_see(request, live.run):
            raise _unknown(run_id)
        return live

    def _may_see(self, request: Request, run: Run) -> bool:
        try:
            return self._access.may_see(request, run)
        except RunError:  # deleted a moment ago
            return False


def _explained(handler: Handler) -> Handler:
    """A handler whose expected failures are answered with a sentence."""

    @wraps(handler)
    async def explained(request: Request) -> Response:
        try:
            return await handler(request)
        except RunError as error:
            return _refused(404, str(error))
        except OSError as error:
            return _refused(500, f"The run's files cannot be read: {error.strerror}.")

    return explained


def _unknown(run_id: str) -> RunError:
    return RunError(f"There is no run {run_id[:SHOWN_CHARACTERS]!r}.")


def _refused(status_code: int, sentence: str) -> Response:
    return _json(orjson.dumps({"error": sentence}), status_code)


def _json(content: bytes, status_code: int = 200) -> Response:
    return Response(content, status_code, NO_STORE, media_type="application/json")


def _whole(text: str | None) -> int | None:
    """A count, or None for whatever else stands there."""
    return int(text) if text and len(text) < 20 and text.isascii() and text.isdigit() else None
