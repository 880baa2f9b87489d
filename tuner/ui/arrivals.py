"""
Writes on a request to the tool server (MCP) whence it came, before that passes it on.

Gradio's tool server calls the page over the network with the caller's headers, so that everybody
who uses tools would seem to sit at this machine; see arrival() in tuner/hub/identity.py.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from tuner.hub.identity import ARRIVED, arrival

TOOLS = "/gradio_api/mcp"


class Arrivals:
    """ASGI middleware around the whole page."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and TOOLS in scope["path"]:
            client = scope.get("client")
            value = arrival(client[0] if client else "").encode()
            others = [pair for pair in scope["headers"] if pair[0] != ARRIVED.encode()]
            scope = {**scope, "headers": [*others, (ARRIVED.encode(), value)]}
        await self.app(scope, receive, send)
