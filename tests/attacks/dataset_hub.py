"""
A Hub on this machine with one dataset, for `datasets` itself, and a host where nobody should ask.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "4f9cbd2c7a2f1f6d7c30e1b9a5d86a4b1f6c9d01"


class Server(ThreadingHTTPServer):
    """Answers from `files`, and keeps what was asked.

    Attributes:
        files: Name → content, of a dataset; empty for a host that has nothing.
        asked: Paths, in order.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Iterator[Server]:
    """A server for as long as it is needed."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = unquote(urlsplit(self.path).path)
        if "/resolve/" in path:
            return self._file(path.partition(f"/resolve/{COMMIT}/")[2])
        if path.startswith("/api/datasets/") and self.server.files:
            return self._listing(path) if "/tree/" in path else self._json(self._info(path))
        return self._json({"error": "no"}, 404)

    do_HEAD = do_GET  # noqa: N815 (its name is http.server's)

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        wanted = unquote(self.rfile.read(int(self.headers["Content-Length"] or 0)).decode())
        self._json([entry for entry in self._tree() if entry["path"] in wanted])

    def _info(self, path: str) -> dict[str, Any]:
        name = "/".join(path.split("/")[3:5])
        names = [{"rfilename": file} for file in self.server.files]
        return {"_id": "1", "id": name, "sha": COMMIT, "tags": [], "siblings": names}

    def _listing(self, path: str) -> None:
        """All files lie in the repository's root."""
        if path.partition(f"/tree/{COMMIT}")[2].strip("/"):
            return self._json({"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})
        return self._json(self._tree())

    def _tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(text), "oid": _digest(text)}
            for name, text in self.server.files.items()
        ]

    def _file(self, name: str) -> None:
        text = self.server.files.get(name)
        if text is None:
            return self._json({"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})
        facts = {"ETag": f'"{_digest(text)}"', "X-Repo-Commit": COMMIT}
        return self._answer(text.encode(), 200, facts)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer(json.dumps(value).encode(), status, headers or {})

    def _answer(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
