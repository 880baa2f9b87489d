"""The small Hub as two servers in one thread of the test's process: the Hub, and its storage."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.small_hub import downloads, repositories, spaces, uploads, xet
from tests.small_hub.faults import Asked, Fault, Faulty
from tests.small_hub.state import GITATTRIBUTES, KINDS, File, Repo, User

START_SECONDS = 20


class SmallHub:
    """A Hub with its storage.

    Args:
        folder: For a client's own cache, fresh with every Hub: hf_xet remembers what it sent.
        extra_routes: Starlette routes that come before the Hub's own.

    Attributes:
        repos: By id; Spaces as `spaces/user/name`, data sets as `datasets/user/name`.
        requests: All that was asked, in order, on both ports.
        faults: What happens to requests instead; see `fail`.
        space_settings: Of each Space: secrets, variables, hardware, sleep_time, volumes.
        lfs_error: A reason for which the storage takes no file, such as a quota.
        ignored: Paths that commits leave out, as a .gitignore of the repo would.
        part_size: Files larger than this are sent in parts of this many bytes.
        page_size: Files on one page of a listing.
    """

    def __init__(self, folder: Path, extra_routes: Sequence[BaseRoute] = ()):
        self.folder = folder
        self.users: dict[str, User] = {}
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}
        self.xorbs: dict[str, list[bytes]] = {}
        self.requests: list[Asked] = []
        self.faults: list[Fault] = []
        self.space_settings: dict[str, dict[str, Any]] = {}
        self.ignored: set[str] = set()
        self.lfs_error: str | None = None
        self.part_size: int | None = None
        self.page_size = 1000
        self._over = threading.Event()
        self._connections: dict[Any, asyncio.Transport] = {}
        routes = [*extra_routes, *repositories.ROUTES, *uploads.ROUTES, *spaces.ROUTES]
        hub, self.url = self._server("hub", [*routes, *downloads.ROUTES])
        storage, self.storage_url = self._server("storage", [*uploads.STORAGE, *xet.ROUTES])
        self._servers = (hub, storage)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        until = time.monotonic() + START_SECONDS
        while not all(server.started for server, _ in self._servers):
            assert time.monotonic() < until, "The small Hub did not start."
            time.sleep(0.005)

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to take this for the Hub. Uploads go by Git LFS, not Xet."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.folder / "hf_home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }

    def add_user(
        self,
        name: str,
        token: str,
        role: str = "write",
        orgs: dict[str, str] | Sequence[str] = (),
        scoped: dict[str, tuple[str, ...]] | None = None,
    ) -> User:
        """Let somebody in. Organisations without a role are those where the person may write."""
        roles = orgs if isinstance(orgs, dict) else dict.fromkeys(orgs, "write")
        self.users[token] = User(name, token, role, roles, scoped or {})
        return self.users[token]

    def add_repo(
        self,
        repo: str,
        files: dict[str, bytes] | None = None,
        *,
        private: bool = True,
        kind: str = "models",
        sdk: str | None = None,
    ) -> Repo:
        """Make a repo as the Hub does: with one commit, of .gitattributes."""
        made = Repo(repo, kind, private, sdk)
        beginning = {".gitattributes": File(GITATTRIBUTES)}
        if kind == "spaces":
            beginning["README.md"] = File(f"---\ntitle: {repo}\nsdk: {sdk}\n---\n".encode())
        made.commit("main", beginning, "initial commit")
        if files:
            new = {path: File(content, uploads.is_large(path)) for path, content in files.items()}
            made.commit("main", beginning | new, "by a test")
        self.repos[KINDS[kind] + repo] = made
        return made

    def fail(self, method: str, path: str, **what: Any) -> Fault:
        """Let something happen to requests; see Fault. `hub.faults.clear()` ends it."""
        self.faults.append(Fault(method, path, **what))
        return self.faults[-1]

    def asked(self, method: str, path: str) -> list[Asked]:
        """The requests with this method and this in their path."""
        return [a for a in list(self.requests) if a.method == method and path in a.path]

    def reset(self) -> None:
        """Forget everything but the users: for tests that share one Hub."""
        for kept in (self.repos, self.stored, self.requests, self.faults, self.space_settings):
            kept.clear()
        self.xorbs.clear()
        self.ignored.clear()
        self.lfs_error, self.part_size, self.page_size = None, None, 1000

    def use_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this the Hub of the test's own process, and of those that it starts."""
        for name, text in self.environment.items():
            monkeypatch.setenv(name, text)
        # Both are read from HF_ENDPOINT when the client is imported.
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def close(self) -> None:
        self._over.set()
        for server, _ in self._servers:
            server.should_exit = True
        self._thread.join(START_SECONDS)

    def _server(
        self, port: str, routes: Sequence[BaseRoute]
    ) -> tuple[tuple[uvicorn.Server, socket.socket], str]:
        app = Starlette(routes=list(routes))
        app.state.hub = self
        faulty = Faulty(app, port, self.requests, self.faults, self._over, self._connections.get)
        listening = socket.socket(proto=socket.IPPROTO_TCP)  # else asyncio leaves Nagle on
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            faulty,
            http=_protocol(self._connections),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        return (uvicorn.Server(config), listening), url

    def _serve(self) -> None:
        async def both() -> None:
            await asyncio.gather(
                *(server.serve(sockets=[listening]) for server, listening in self._servers)
            )

        asyncio.run(both())


def _protocol(connections: dict[Any, asyncio.Transport]) -> type[H11Protocol]:
    """uvicorn's protocol that also remembers its connections, so that a fault can cut one."""

    class Remembered(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            connections[transport.get_extra_info("peername")] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            connections.pop(self.transport.get_extra_info("peername"), None)
            super().connection_lost(exc)

    return Remembered


@contextmanager
def small_hub(folder: Path, extra_routes: Sequence[BaseRoute] = ()) -> Iterator[SmallHub]:
    """A Hub for as long as the block lasts."""
    hub = SmallHub(folder, extra_routes)
    try:
        yield hub
    finally:
        hub.close()
