"""
Page and server keep to themselves: neither asks another host for what a stranger's text names.

    page.launch(app_kwargs={"middleware": KEEPS_TO_ITSELF})     the browser
    fetch_nothing()                                        the server

A row, an answer or a card may hold an image's address: showing it would tell that host who looks
at what. And Gradio downloads whatever address it is given in place of a file, from every public
host, for everybody who asks. Links are left: they ask for a click.

Not covered: the Hub, which tuner/hub, base_models and data ask by HF_ENDPOINT alone.
"""

from typing import Any

from gradio import processing_utils
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.hub.space import is_space

POLICY = (
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:{hub}; frame-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)


def _headers() -> dict[str, str]:
    # On a Space, Gradio's page asks the Hub how the Space is.
    hub = " https://huggingface.co" if is_space() else ""
    return {
        "Content-Security-Policy": POLICY.format(hub=hub),
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


class _Headers:
    """Says in every answer what a browser may ask for on this page's account."""

    def __init__(self, app: ASGIApp):
        self._app, self._told = app, _headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._told.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


KEEPS_TO_ITSELF = [Middleware(_Headers)]


def fetch_nothing() -> None:
    """Let this process's Gradio download no address, whoever gives it one."""
    processing_utils.async_ssrf_protected_get = _refused
    processing_utils.async_ssrf_protected_download = _refused
    processing_utils.sh.async_validate_url = _refused  # safehttpx's, for /gradio_api/file=http://…


async def _refused(*_: Any, **__: Any) -> Any:
    raise ValueError("Tuner fetches no addresses. Upload the file instead.")
