"""
What the small Hub is told to do instead of answering, and what it was asked.

A fault is found by method and a part of the path, on both ports; the first one that fits counts.
"""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Fault:
    """What happens to requests with this method ("" for all) and this in their path.

    Attributes:
        status: The answer's status; 0 leaves it to the other fields.
        times: How often, until requests are answered again.
        code: The X-Error-Code header; `message` the X-Error-Message header.
        resets: The connection is reset before an answer.
        loses_response: What was asked is done, and the connection cut instead of telling so.
        hangs: Nothing is answered until the Hub closes.
        seconds: The answer comes so much later, unharmed if there is no other fault.
    """

    method: str = ""
    path: str = ""
    status: int = 0
    times: int = 1_000_000
    retry_after: int | None = None
    code: str = ""
    message: str = ""
    body: bytes = b"{}"
    resets: bool = False
    loses_response: bool = False
    hangs: bool = False
    seconds: float = 0.0

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.path in path

    def headers(self) -> list[tuple[bytes, bytes]]:
        found = {
            "content-type": "application/json",
            "x-error-code": self.code,
            "x-error-message": self.message,
            "retry-after": "" if self.retry_after is None else str(self.retry_after),
        }
        return [(name.encode(), text.encode()) for name, text in found.items() if text]


@dataclass
class Asked:
    """One request that came: on which port ("hub" or "storage"), and with which token."""

    port: str
    method: str
    path: str
    query: str
    token: str | None = field(repr=False)
    body: bytearray = field(default_factory=bytearray, repr=False)

    @property
    def json(self) -> Any:
        """The body, where it was JSON."""
        return json.loads(self.body)


class Faulty:
    """Records what a port is asked, and lets the Hub's faults happen to it.

    Args:
        requests, faults: The Hub's own lists.
        over: Set when the Hub closes: what hangs ends then.
        transport: Finds the connection of a request by the client's address.
    """

    def __init__(
        self,
        app: ASGIApp,
        port: str,
        requests: list[Asked],
        faults: list[Fault],
        over: threading.Event,
        transport: Callable[[Any], asyncio.Transport | None],
    ):
        self.app, self.port, self.over, self.transport = app, port, over, transport
        self.requests, self.faults = requests, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = self._asked(scope)
        self.requests.append(asked)
        fault = next((f for f in self.faults if f.fits(asked.method, asked.path)), None)

        async def recorded() -> Message:
            message = await receive()
            if self.port == "hub":
                asked.body += message.get("body", b"")
            return message

        if fault is None:
            await self.app(scope, recorded, send)
        else:
            fault.times -= 1
            await self._fail(fault, scope, recorded, send)

    def _asked(self, scope: Scope) -> Asked:
        headers = {name.decode().lower(): text.decode() for name, text in scope["headers"]}
        token = headers.get("authorization", "").removeprefix("Bearer ") or None
        query = scope["query_string"].decode()
        return Asked(self.port, scope["method"], scope["path"], query, token)

    async def _fail(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        await self._wait(fault.seconds)
        while fault.hangs and not self.over.is_set():
            await asyncio.sleep(0.02)
        if fault.loses_response:
            await self.app(scope, receive, _nowhere)
        if fault.hangs or fault.resets or fault.loses_response:
            self._cut(scope)
        elif fault.status:
            await self._drain(receive)
            start = {"type": "http.response.start", "status": fault.status}
            await send({**start, "headers": fault.headers()})
            await send({"type": "http.response.body", "body": fault.body})
        else:
            await self.app(scope, receive, send)

    async def _wait(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.02)):
            if self.over.is_set():
                return
            await asyncio.sleep(0.02)

    async def _drain(self, receive: Receive) -> None:
        """Read a body to its end, or its sender takes the answer for a broken connection."""
        while (message := await receive()).get("more_body"):
            if message["type"] == "http.disconnect":
                return

    def _cut(self, scope: Scope) -> None:
        """End the connection as a broken network does: with a reset."""
        if transport := self.transport(tuple(scope["client"])):
            connection = transport.get_extra_info("socket")
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()


async def _nowhere(message: Message) -> None:
    pass
