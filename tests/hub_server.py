"""
A Hub on this machine, for the real client: it serves one model's folder as the real one does.

    with serving(folder, monkeypatch) as hub: ...

The model's page, and files with ranges, ETag and commit. Everything it can refuse, break or be slow
at is asked for by name in `faults`; with `piece_seconds`, weights come in pieces.
"""

import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest

MODEL = "shop/tiny-llama"
COMMIT = "4f9cbd2c7a2f1f6d7c30e1b9a5d86a4b1f6c9d01"
PIECES = 20  # of a file


class Fault(NamedTuple):
    """What the Hub does instead of answering."""

    status: int = 200
    code: str = ""
    message: str = ""
    body: bytes = b'{"error": "no"}'
    hangs: bool = False
    breaks_off: bool = False


class Asked(NamedTuple):
    path: str
    range: str | None
    token: str | None


class Hub(ThreadingHTTPServer):
    """Serves one model.

    Args:
        folder: Holds its files.

    `faults` are by a part of the path; `page` is added to what the model's page says; weights are
    redirected to `storage`, another origin, if there is one.
    """

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Answers)
        self.folder = folder
        self.page: dict[str, Any] = {}
        self.faults: dict[str, Fault] = {}
        self.storage: Hub | None = None
        self.asked: list[Asked] = []
        self.piece_seconds = 0.0
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def info(self, sizes: bool = False) -> dict[str, Any]:
        siblings = [
            {"rfilename": path.name} | ({"size": path.stat().st_size} if sizes else {})
            for path in sorted(self.folder.iterdir())
        ]
        page = {"_id": "1", "id": MODEL, "sha": COMMIT, "private": False, "gated": False}
        return page | {"tags": [], "siblings": siblings} | self.page


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        asked = Asked(self.path, self.headers["Range"], self.headers["Authorization"])
        self.server.asked.append(asked)
        fault = next((f for part, f in self.server.faults.items() if part in self.path), None)
        if fault:
            self.fail(fault)
        elif "/tree/" in self.path or self.is_missing():
            self.fail(Fault(404, "EntryNotFound"))
        elif self.path.startswith("/api/models/"):
            self.answer(json.dumps(self.server.info("blobs=" in self.path)).encode())
        elif self.server.storage and self.path.endswith(".safetensors"):
            self.answer(b"", 302, {"Location": self.server.storage.address + self.path})
        else:
            self.serve((self.server.folder / self.path.rpartition("/")[2]).read_bytes())

    do_HEAD = do_GET  # noqa: N815 (its name is http.server's)

    def is_missing(self) -> bool:
        name = self.path.rpartition("/")[2]
        return "/resolve/" in self.path and not (self.server.folder / name).exists()

    def serve(self, content: bytes) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{zlib.crc32(content):x}"'}
        if not self.headers["Range"]:
            return self.answer(content, 200, headers)
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        return self.answer(content[int(first) : int(last) + 1], 206, headers)

    def fail(self, fault: Fault) -> None:
        if fault.hangs:
            self.server.over.wait()
        if fault.hangs or fault.breaks_off:
            self.close_connection = True
            return
        headers = {"X-Error-Code": fault.code, "X-Error-Message": fault.message}
        self.answer(fault.body, fault.status, {key: text for key, text in headers.items() if text})

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status, HTTPStatus(status).phrase)
        for key, text in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        slow = self.server.piece_seconds and self.path.endswith(".safetensors") and status == 200
        size = len(body) // PIECES + 1 if slow else len(body)
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has had enough
            for start in range(0, len(body), size or 1):
                self.wfile.write(body[start : start + size])
                if slow and self.server.over.wait(self.server.piece_seconds):
                    return


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a folder to this process and to those that it starts."""
    server = Hub(folder)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    # Both are read from HF_ENDPOINT when the client is imported.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Functions of the module have one from when it was imported: a server that is closed by now,
    # which they ask again and again.
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.address)
    try:
        yield server
    finally:
        server.close()
