"""Who asks, which repo is meant, and the Hub's way of saying no."""

from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from tests.small_hub.state import KINDS, Commit, Repo, User

if TYPE_CHECKING:
    from tests.small_hub.server import SmallHub


def hub_of(request: Request) -> "SmallHub":
    hub: SmallHub = request.app.state.hub
    return hub


def no(status: int, message: str, code: str = "") -> HTTPException:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return HTTPException(status, message, headers)


def user_of(request: Request) -> User | None:
    """Who sent the request; None for anonymous ones. An unknown token is refused."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not token:
        return None
    user = hub_of(request).users.get(token)
    if user is None:
        raise no(401, "Invalid credentials in Authorization header")
    return user


def kind_of(request: Request) -> str:
    """Models, where the path does not say."""
    kind = request.path_params.get("kind", "models")
    if kind not in KINDS:
        raise no(404, "Sorry, we can't find the page you are looking for.")
    return str(kind)


def repo_of(request: Request, *, to_write: bool = False) -> Repo:
    """The repo that the path names. A private one does not exist for those who may not read it."""
    user = user_of(request)
    name = f"{request.path_params['namespace']}/{request.path_params['name']}"
    repo = hub_of(request).repos.get(KINDS[kind_of(request)] + name)
    hidden = repo and repo.private and not (user and user.may_read(repo.namespace))
    if repo is None or hidden:
        raise no(404 if user else 401, "Repository not found", "RepoNotFound")
    if to_write and not (user and user.may_write(repo.namespace, repo.id)):
        raise no(403, "You don't have the rights to write in this repo")
    return repo


def commit_of(request: Request, repo: Repo) -> Commit:
    revision = request.path_params.get("revision", "main")
    commit = repo.at(revision)
    if commit is None:
        raise no(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


async def body_of(request: Request) -> Any:
    return await request.json()
