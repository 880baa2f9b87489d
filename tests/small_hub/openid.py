"""
Sign-in at the small Hub: an OpenID provider with the code flow, as the Hub's own.

    provider = Provider(client_id, client_secret)
    with small_hub(folder, provider.routes) as hub: ...
    OPENID_PROVIDER_URL = hub.url

Whoever comes to /oauth/authorize chooses as whom to sign in: people are the Hub's users. A code is
good once and for its client, its redirect address and its secret only; the id token is signed with
RS256, carries the nonce, and names the person and their organizations as the Hub's does.
Not covered: PKCE, refresh tokens, consent.
"""

import base64
import secrets
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from tests.small_hub.state import User

KEY_BITS, KEY_ID = 2048, "key-of-the-small-hub"
EXPIRES_SECONDS = 28800  # hf_oauth_expiration_minutes: 480


class Provider:
    """The provider, for one registered app.

    Attributes:
        hosts: Whereto codes may be sent; a Space's address is registered with its app.
        expires_seconds: How long the next sign-ins last.
        authorized: Query of every request to authorize, in order.
    """

    def __init__(self, client_id: str, client_secret: str):
        self.client_id, self.client_secret = client_id, client_secret
        self.hosts: set[str] = set()
        self.expires_seconds = EXPIRES_SECONDS
        self.authorized: list[dict[str, str]] = []
        self._key = RSAKey.generate_key(KEY_BITS, {"kid": KEY_ID})
        self._codes: dict[str, tuple[str, dict[str, str]]] = {}

    @property
    def routes(self) -> list[BaseRoute]:
        return [
            Route("/.well-known/openid-configuration", self._configuration),
            Route("/oauth/authorize", self._authorize),
            Route("/oauth/chosen", self._chosen),
            Route("/oauth/token", self._token, methods=["POST"]),
            Route("/oauth/userinfo", self._userinfo),
            Route("/oauth/jwks", self._keys),
        ]

    async def _configuration(self, request: Request) -> Response:
        here = _origin(request)
        return JSONResponse(
            {
                "issuer": here,
                "authorization_endpoint": f"{here}/oauth/authorize",
                "token_endpoint": f"{here}/oauth/token",
                "userinfo_endpoint": f"{here}/oauth/userinfo",
                "jwks_uri": f"{here}/oauth/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            }
        )

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        self.authorized.append(asked)
        if asked.get("client_id") != self.client_id or asked.get("response_type") != "code":
            return HTMLResponse("<h1>No such app</h1>", 400)
        if urlsplit(asked.get("redirect_uri", "")).netloc not in self.hosts:
            return HTMLResponse("<h1>The address is not registered</h1>", 400)
        people = "".join(
            f'<p><a href="/oauth/chosen?{urlencode({**asked, "as": user.name})}">{user.name}</a>'
            for user in _people(request)
        )
        return HTMLResponse(f"<h1>Sign in as</h1>{people}")

    async def _chosen(self, request: Request) -> Response:
        asked, code = dict(request.query_params), secrets.token_urlsafe()
        self._codes[code] = (asked["as"], asked)
        joint = "&" if "?" in asked["redirect_uri"] else "?"
        answer = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}{joint}{answer}", 302)

    async def _token(self, request: Request) -> Response:
        form = await request.form()
        name, asked = self._codes.pop(str(form.get("code")), ("", {}))
        wanted = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        knows = secrets.compare_digest(request.headers.get("authorization", ""), f"Basic {wanted}")
        if not knows:
            return JSONResponse({"error": "invalid_client"}, 401)
        if not name or form.get("redirect_uri") != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        user = next(user for user in _people(request) if user.name == name)
        return JSONResponse(
            {
                "access_token": user.token,
                "token_type": "bearer",
                "expires_in": self.expires_seconds,
                "scope": asked["scope"],
                "id_token": self._id_token(_origin(request), user, asked.get("nonce")),
            }
        )

    def _id_token(self, issuer: str, user: User, nonce: str | None) -> str:
        now = int(time.time())
        claims = {"iss": issuer, "aud": self.client_id, "iat": now, "exp": now + 3600}
        claims |= {"auth_time": now, "nonce": nonce, **_claims(user)}
        return jwt.encode({"alg": "RS256", "kid": KEY_ID}, claims, self._key)

    async def _userinfo(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        user = next((user for user in _people(request) if user.token == token), None)
        return JSONResponse(_claims(user)) if user else JSONResponse({}, 401)

    async def _keys(self, request: Request) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})


def _claims(user: User) -> dict[str, Any]:
    return {
        "sub": f"id-of-{user.name}",
        "name": user.name.title(),
        "preferred_username": user.name,
        "profile": f"https://huggingface.co/{user.name}",
        "picture": "",
        "orgs": [
            {
                "sub": f"id-of-{org}",
                "name": org.title(),
                "preferred_username": org,
                "roleInOrg": role,
            }
            for org, role in user.orgs.items()
        ],
    }


def _people(request: Request) -> list[User]:
    return list(request.app.state.hub.users.values())


def _origin(request: Request) -> str:
    return str(request.base_url).rstrip("/")
