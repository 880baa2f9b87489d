"""Requests as a server gets them, for handlers that are called without one."""

import base64
import hashlib
import json
import time

import gradio as gr
from itsdangerous import TimestampSigner
from starlette.requests import Request

HERE = "127.0.0.1"


def http(peer=HERE, host="127.0.0.1:7860", session=None, **headers):
    """An HTTP request from this address; `X_Forwarded_For=…` is a header."""
    names = {"host": host} | {name.replace("_", "-").lower(): headers[name] for name in headers}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/gradio_api/queue/join",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in names.items()],
        "client": (peer, 50000),
    }
    return Request(scope if session is None else scope | {"session": session})


def asked(*where, **how):
    """The same as Gradio gives it to a handler."""
    return gr.Request(http(*where, **how))


def session_of(name, /, *, ends_in=3600.0, token="hf_oauth_of_somebody", **claims):
    """A session as it is after a sign-in at the Hub."""
    userinfo = {"sub": f"id-of-{name}", "preferred_username": name, "name": name.title()}
    return {
        "oauth_info": {
            "access_token": token,
            "expires_at": time.time() + ends_in,
            "userinfo": userinfo | claims,
        }
    }


def cookie_of(session, secret):
    """The cookie in which Gradio keeps a session on a Space with this OAuth secret."""
    # gradio/oauth.py: the key is a hash of the secret and of the cookie format's version.
    signer = TimestampSigner(hashlib.sha256(f"{secret}-v4".encode()).hexdigest())
    return signer.sign(base64.b64encode(json.dumps(session).encode())).decode()
