"""Accounts and repos: who am I, create, info, listing, branches, delete."""

import time
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.small_hub.answers import body_of, commit_of, hub_of, no, repo_of, user_of
from tests.small_hub.state import KINDS, Commit, Repo

PLURAL = {"model": "models", "dataset": "datasets", "space": "spaces"}


async def whoami(request: Request) -> JSONResponse:
    user = user_of(request)
    if user is None:
        raise no(401, "Invalid username or password.")
    return JSONResponse(user.whoami())


async def create(request: Request) -> JSONResponse:
    user, asked, hub = user_of(request), await body_of(request), hub_of(request)
    if user is None:
        raise no(401, "Invalid username or password.")
    repo = f"{asked.get('organization') or user.name}/{asked['name']}"
    kind = PLURAL[asked.get("type") or "model"]
    url = f"{hub.url}/{KINDS[kind]}{repo}"
    if not user.may_write(repo.split("/")[0], repo):
        raise no(403, f"You don't have the rights to create a {kind[:-1]} under this namespace")
    if KINDS[kind] + repo in hub.repos:
        error = f"You already created this {kind[:-1]} repo"
        return JSONResponse({"error": error, "url": url}, 409)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    hub.add_repo(repo, private=private, kind=kind, sdk=asked.get("sdk"))
    if kind == "spaces":
        settings = hub.space_settings.setdefault(repo, {})
        settings["secrets"] = {s["key"]: s["value"] for s in asked.get("secrets") or ()}
        settings["variables"] = {v["key"]: v["value"] for v in asked.get("variables") or ()}
        settings["hardware"] = asked.get("hardware") or "cpu-basic"
        settings["sleep_time"] = asked.get("sleepTimeSeconds")
        settings["volumes"] = asked.get("volumes") or []
    return JSONResponse({"url": url, "name": repo, "id": repo})


async def delete(request: Request) -> JSONResponse:
    user, asked, hub = user_of(request), await body_of(request), hub_of(request)
    namespace = asked.get("organization") or (user.name if user else "")
    repo, kind = f"{namespace}/{asked['name']}", PLURAL[asked.get("type") or "model"]
    if KINDS[kind] + repo not in hub.repos:
        raise no(404, "Repository not found", "RepoNotFound")
    if not (user and user.may_write(namespace, repo)):
        raise no(403, "You don't have the rights to delete this repo")
    del hub.repos[KINDS[kind] + repo]
    return JSONResponse({})


async def validate_yaml(request: Request) -> JSONResponse:
    """The metadata of a README must be YAML: the Hub knows more rules, which are its own."""
    content = (await body_of(request))["content"]
    errors: list[dict[str, str]] = []
    warnings: list[dict[str, str]] = []
    if not content.startswith("---\n"):
        warnings.append({"message": "empty or missing yaml metadata in repo card"})
    else:
        try:
            loaded = yaml.safe_load(content[4:].partition("\n---")[0])
            if not isinstance(loaded, dict | None):
                errors.append({"message": "metadata must be an object"})
        except yaml.YAMLError as error:
            errors.append({"message": f"bad yaml: {type(error).__name__}"})
    status = 400 if errors else 200
    return JSONResponse({"errors": errors, "warnings": warnings}, status)


def info_document(repo: Repo, commit: Commit, blobs: bool) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for path, file in sorted(commit.files.items()):
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"size": len(file.content), "blobId": file.blob_id}
            if file.is_lfs:
                lfs = {"sha256": file.sha256, "size": len(file.content)}
                sibling["lfs"] = lfs | {"pointerSize": len(file.pointer)}
        siblings.append(sibling)
    document = {
        "_id": "1",
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.namespace,
        "sha": commit.oid,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "tags": [],
        "likes": 0,
        "downloads": 0,
        "siblings": siblings,
        "cardData": repo.card_data(commit),
    }
    return document | ({"sdk": repo.sdk} if repo.kind == "spaces" else {})


async def info(request: Request) -> JSONResponse:
    repo = repo_of(request)
    blobs = "blobs" in request.query_params
    return JSONResponse(info_document(repo, commit_of(request, repo), blobs))


async def tree(request: Request) -> JSONResponse:
    """All files, a page at a time. Folders are not listed: the client asks for files alone."""
    repo, hub = repo_of(request), hub_of(request)
    commit = commit_of(request, repo)
    under = request.path_params.get("path", "")
    names = [path for path in sorted(commit.files) if path.startswith(f"{under}/" if under else "")]
    start = int(request.query_params.get("cursor", 0))
    shown = names[start : start + hub.page_size]
    page = JSONResponse([commit.files[path].tree_entry(path) for path in shown])
    if start + hub.page_size < len(names):
        following = request.url.include_query_params(cursor=start + hub.page_size)
        page.headers["Link"] = f'<{following}>; rel="next"'
    return page


async def paths_info(request: Request) -> JSONResponse:
    repo = repo_of(request)
    files = commit_of(request, repo).files
    if "json" in request.headers.get("content-type", ""):
        asked = (await body_of(request))["paths"]
    else:
        asked = (await request.form()).getlist("paths")
    return JSONResponse([files[path].tree_entry(path) for path in asked if path in files])


async def refs(request: Request) -> JSONResponse:
    repo = repo_of(request)
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commits[-1].oid}
        for name, commits in repo.branches.items()
    ]
    return JSONResponse({"branches": branches, "converts": [], "tags": []})


async def commits(request: Request) -> JSONResponse:
    repo = repo_of(request)
    commit_of(request, repo)
    listed = [
        {
            "id": commit.oid,
            "title": commit.message,
            "message": "",
            "date": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(commit.time)),
            "authors": [{"user": commit.author}],
        }
        for commit in reversed(repo.branches.get(request.path_params["revision"], []))
    ]
    return JSONResponse(listed)


async def create_branch(request: Request) -> JSONResponse:
    repo = repo_of(request, to_write=True)
    branch, asked = request.path_params["branch"], await body_of(request)
    if branch in repo.branches:
        raise no(409, f"Reference {branch} already exists")
    start = repo.at(asked.get("startingPoint") or "main")
    if start is None:
        raise no(404, "Invalid starting point", "RevisionNotFound")
    repo.branches[branch] = [start]
    return JSONResponse({})


async def delete_branch(request: Request) -> JSONResponse:
    repo = repo_of(request, to_write=True)
    if repo.branches.pop(request.path_params["branch"], None) is None:
        raise no(404, "Invalid rev id", "RevisionNotFound")
    return JSONResponse({})


async def settings(request: Request) -> JSONResponse:
    repo, asked = repo_of(request, to_write=True), await body_of(request)
    if "visibility" in asked:
        repo.private = asked["visibility"] == "private"
    elif "private" in asked:
        repo.private = bool(asked["private"])
    return JSONResponse({})


async def auth_check(request: Request) -> JSONResponse:
    repo_of(request, to_write="write" in request.url.path)
    return JSONResponse({})


R = "/api/{kind}/{namespace}/{name}"
ROUTES = [
    Route("/api/whoami-v2", whoami),
    Route("/api/validate-yaml", validate_yaml, methods=["POST"]),
    Route("/api/repos/create", create, methods=["POST"]),
    Route("/api/repos/delete", delete, methods=["DELETE"]),
    Route(R + "/revision/{revision:path}", info),
    Route(R + "/tree/{revision}", tree),
    Route(R + "/tree/{revision}/{path:path}", tree),
    Route(R + "/paths-info/{revision:path}", paths_info, methods=["POST"]),
    Route(R + "/refs", refs),
    Route(R + "/commits/{revision:path}", commits),
    Route(R + "/branch/{branch:path}", create_branch, methods=["POST"]),
    Route(R + "/branch/{branch:path}", delete_branch, methods=["DELETE"]),
    Route(R + "/settings", settings, methods=["PUT"]),
    Route(R + "/auth-check", auth_check),
    Route(R + "/auth-check/write", auth_check),
    Route(R, info),
]
