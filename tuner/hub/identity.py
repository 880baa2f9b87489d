"""
Who asks: the owner of the page, somebody who signed in, or a visitor.

    here = person_of(request)
    if here.role is Role.OWNER: ...

On a Space the session says it, which Gradio signs with the Space's OAuth secret after a sign-in at
the Hub. Owners are the Space's author; who created it; members of the organization that holds it
who may write to it (they may change its code as well); and the people and organizations in
TUNER_OWNERS (names with commas between). An expired sign-in is none.

Elsewhere a session says nothing: its signature is made with a key that everybody knows. There the
owner is who sits at the machine: whose request comes from it, to an address that only the machine
itself has, and through no proxy that says so. A proxy that does not say so (no X-Forwarded-For)
makes everybody the owner. Others are visitors, unless TUNER_TRUST_NETWORK=1 makes them owners too.

A page of another origin that asks in somebody's browser asks as a visitor (cross-site requests).
Not covered: what each may do (tuner/ui/access.py, tuner/hub/quotas.py).
Claims of the Hub's sign-in: https://huggingface.co/docs/hub/oauth
"""

import hashlib
import hmac
import ipaddress
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

OWNERS = "TUNER_OWNERS"
TRUST = "TUNER_TRUST_NETWORK"
WRITERS = ("admin", "write")  # roles in an organization that may change the code of its Spaces
# Any of these says that somebody else's request is passed on.
FORWARDED = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-server",
    "x-real-ip",
    "via",
    "cf-connecting-ip",
)
ARRIVED = "x-tuner-arrived"  # see arrival()
_PASSED_ON = "x-gradio-user"  # on what Gradio's tool server asks of the page for somebody else
_key = secrets.token_bytes(32)


class Role(Enum):
    """What somebody is to this page."""

    OWNER = "owner"
    SIGNED_IN = "signed in"
    VISITOR = "visitor"


@dataclass(frozen=True)
class Person:
    """Who asks.

    Attributes:
        name: At the Hub; None for who has not signed in, and everywhere but on a Space.
        token: Of the sign-in, for this one request; never to be kept or shown.
    """

    role: Role
    name: str | None = None
    token: str | None = field(default=None, repr=False)


VISITOR, LOCAL_OWNER = Person(Role.VISITOR), Person(Role.OWNER)


def person_of(request: Request) -> Person:
    """Who sent this request. Reads nothing but the request and the environment."""
    if _is_cross_site(request):
        return VISITOR
    if os.environ.get("SPACE_ID"):
        return _signed_in(request) if has_signed_sessions() else VISITOR
    return LOCAL_OWNER if trusts_network() or _is_at_this_machine(request) else VISITOR


def has_signed_sessions() -> bool:
    """Whether sessions are signed with a key that only this Space knows."""
    # The same as Gradio asks for: else it serves a made-up sign-in, with a known key.
    is_space = os.environ.get("SYSTEM") == "spaces" and os.environ.get("SPACE_ID")
    return bool(is_space and os.environ.get("OAUTH_CLIENT_SECRET"))


def trusts_network() -> bool:
    """Whether everybody who reaches the page is its owner; never on a Space."""
    return os.environ.get(TRUST) == "1" and not os.environ.get("SPACE_ID")


def address_of(request: Request) -> str:
    """Whence a request comes, to count by. On a Space as its proxy says, which can be made up."""
    if os.environ.get("SPACE_ID") and (chain := request.headers.get("x-forwarded-for")):
        return chain.split(",")[0].strip()[:64]
    return _peer(request)


def arrival(peer: str) -> str:
    """A header's value that tells this very process whence a request came first.

    Gradio's tool server (MCP) asks the page over the network, as if this machine had asked. Its
    requests carry the caller's headers, so whence the caller came is put among them.
    """
    return f"{peer} {hmac.new(_key, peer.encode(), hashlib.sha256).hexdigest()}"


def _signed_in(request: Request) -> Person:
    session = request.scope.get("session")  # not there where nobody can sign in
    info = session.get("oauth_info") if isinstance(session, Mapping) else None
    if not isinstance(info, Mapping) or not _is_valid(info):
        return VISITOR
    claims = info.get("userinfo")
    name = claims.get("preferred_username") if isinstance(claims, Mapping) else None
    if not isinstance(claims, Mapping) or not isinstance(name, str) or not name:
        return VISITOR
    role = Role.OWNER if _is_owner(claims, name) else Role.SIGNED_IN
    token = info.get("access_token")
    return Person(role, name, token if isinstance(token, str) and token else None)


def _is_valid(info: Mapping[str, Any]) -> bool:
    ends = info.get("expires_at")
    return isinstance(ends, int | float) and ends > time.time()


def _is_owner(claims: Mapping[str, Any], name: str) -> bool:
    author, creator = os.environ.get("SPACE_AUTHOR_NAME"), os.environ.get("SPACE_CREATOR_USER_ID")
    if (author and name == author) or (creator and claims.get("sub") == creator):
        return True
    listed = {one.strip() for one in os.environ.get(OWNERS, "").split(",")} - {""}
    # preferred_username is an account's own name; `name` is whatever its people call themselves.
    roles = {org["preferred_username"]: org.get("roleInOrg") for org in _organizations(claims)}
    if name in listed or listed & set(roles):
        return True
    return bool(author) and roles.get(author) in WRITERS


def _organizations(claims: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = claims.get("orgs")
    return [
        org
        for org in (found if isinstance(found, list) else [])
        if isinstance(org, Mapping) and isinstance(org.get("preferred_username"), str)
    ]


def _is_at_this_machine(request: Request) -> bool:
    headers = request.headers
    if any(name in headers for name in FORWARDED):
        return False
    # A name that leads here from elsewhere (DNS rebinding, a tunnel) is not one of these.
    return _is_loopback(_peer(request)) and _is_loopback(_host_name(headers.get("host", "")))


def _peer(request: Request) -> str:
    told = request.headers.get(ARRIVED, "").rpartition(" ")[0]
    if told and hmac.compare_digest(request.headers[ARRIVED].encode(), arrival(told).encode()):
        return told
    if request.headers.get(_PASSED_ON) == "mcp":
        return ""  # passed on, and nobody says for whom
    return request.client.host if request.client else ""


def _is_cross_site(request: Request) -> bool:
    origin = request.headers.get("origin")
    if origin is None:  # not a browser, or one that merely reads a page or an image of ours
        return False
    there = urlsplit(origin).netloc.lower()
    ours = [request.headers.get("host", ""), *os.environ.get("SPACE_HOST", "").split(",")]
    return there not in {host.strip().lower() for host in ours} - {""}


def _host_name(host: str) -> str:
    """A Host header without its port.

    >>> _host_name("127.0.0.1:7860"), _host_name("[::1]:7860"), _host_name("localhost")
    ('127.0.0.1', '::1', 'localhost')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
