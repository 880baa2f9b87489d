"""Uploads: how each file is to be sent, Git LFS with its storage, and the commit."""

import base64
import hashlib
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.small_hub.answers import body_of, commit_of, hub_of, no, repo_of, user_of
from tests.small_hub.state import KINDS, File

LARGE = (".safetensors", ".bin", ".gguf", ".png", ".zip", ".woff2", ".npz")


def is_large(path: str) -> bool:
    """Whether the Hub wants a file of this name in LFS."""
    return path.endswith(LARGE)


async def preupload(request: Request) -> JSONResponse:
    repo = repo_of(request, to_write=True)
    files, hub = commit_of(request, repo).files, hub_of(request)
    modes: list[dict[str, Any]] = []
    for asked in (await body_of(request))["files"]:
        path, known = asked["path"], files.get(asked["path"])
        mode = "lfs" if is_large(path) else "regular"
        entry = {"path": path, "uploadMode": mode, "shouldIgnore": path in hub.ignored}
        if known:
            entry["oid"] = known.sha256 if known.is_lfs else known.blob_id
        modes.append(entry)
    return JSONResponse({"files": modes})


async def batch(request: Request) -> JSONResponse:
    repo, hub = repo_of(request, to_write=True), hub_of(request)
    objects: list[dict[str, Any]] = []
    for asked in (await body_of(request))["objects"]:
        oid, size = asked["oid"], asked["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if hub.lfs_error:
            answer["error"] = {"code": 403, "message": hub.lfs_error}
        elif oid not in hub.stored:
            answer["actions"] = _actions(request, KINDS[repo.kind] + repo.id, oid, size)
        objects.append(answer)
    return JSONResponse({"transfer": "basic", "objects": objects})


def _actions(request: Request, repo: str, oid: str, size: int) -> dict[str, Any]:
    hub = hub_of(request)
    verify = {"href": f"{hub.url}/{repo}.git/info/lfs/objects/verify"}
    if not hub.part_size or size <= hub.part_size:
        return {"upload": {"href": f"{hub.storage_url}/objects/{oid}"}, "verify": verify}
    count = -(-size // hub.part_size)
    address = f"{hub.storage_url}/objects/{oid}?partNumber="  # as S3 has it
    parts = {f"{number:05}": f"{address}{number}" for number in range(1, count + 1)}
    header = {"chunk_size": str(hub.part_size), **parts}
    complete = f"{hub.url}/lfs-complete/{oid}"
    return {"upload": {"href": complete, "header": header}, "verify": verify}


async def verify(request: Request) -> JSONResponse:
    repo_of(request, to_write=True)
    asked = await body_of(request)
    if len(hub_of(request).stored.get(asked["oid"], b"")) != asked["size"]:
        raise no(422, "The file is not in the storage, or not all of it")
    return JSONResponse({})


async def complete(request: Request) -> JSONResponse:
    """Join the parts. The client sends no token here: the address is the secret."""
    hub, oid, asked = hub_of(request), request.path_params["oid"], await body_of(request)
    parts = [hub.stored.pop(f"{oid}/{part['partNumber']}") for part in asked["parts"]]
    content = b"".join(parts)
    if hashlib.sha256(content).hexdigest() != oid:
        raise no(400, "The parts do not make up the file")
    hub.stored[oid] = content
    return JSONResponse({})


async def commit(request: Request) -> JSONResponse:
    repo, hub, user = repo_of(request, to_write=True), hub_of(request), user_of(request)
    before = commit_of(request, repo)
    revision = request.path_params["revision"]
    if revision not in repo.branches:
        raise no(400, "Commits go to a branch")
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line]
    header = lines[0]["value"]
    parent = header.get("parentCommit")
    if parent and not before.oid.startswith(parent):
        raise no(412, "A commit has happened since. Please refresh and try again.")
    files = dict(before.files)
    for line in lines[1:]:
        _apply(line["key"], line["value"], files, hub.stored)
    made = repo.commit(revision, files, header["summary"], user.name if user else "")
    url = f"{hub.url}/{repo.id}/commit/{made.oid}"
    return JSONResponse({"success": True, "commitOid": made.oid, "commitUrl": url})


def _apply(key: str, value: Any, files: dict[str, File], stored: dict[str, bytes]) -> None:
    path = value["path"]
    if key == "file":
        files[path] = File(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        if value["oid"] not in stored:
            raise no(400, f"LFS pointer of {path} points to a file that does not exist")
        files[path] = File(stored[value["oid"]], is_lfs=True)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise no(404, "A file with this name doesn't exist", "EntryNotFound")
    elif key == "deletedFolder":
        for name in [name for name in files if name.startswith(f"{path.rstrip('/')}/")]:
            del files[name]
    else:
        raise no(400, f"Unknown operation {key}")


async def put_object(request: Request) -> Response:
    """A whole file, or one part of it."""
    oid, content = request.path_params["oid"], await request.body()
    if part := request.query_params.get("partNumber"):
        hub_of(request).stored[f"{oid}/{part}"] = content
    elif hashlib.sha256(content).hexdigest() == oid:
        hub_of(request).stored[oid] = content
    else:
        return Response("BadDigest", 400)
    return Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})


async def get_object(request: Request) -> Response:
    content = hub_of(request).stored.get(request.path_params["oid"])
    return Response("NoSuchKey", 404) if content is None else ranged(request, content, {})


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """A file, or the part of it that was asked for."""
    asked = request.headers.get("range")
    if not asked:
        return Response(content, headers=headers, media_type="application/octet-stream")
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(content)), len(content) - 1)
    if start >= len(content):
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
    return Response(content[start : end + 1], 206, headers)


async def xet_token(request: Request) -> JSONResponse:
    """What hf_xet needs to speak to the storage; the token is not the person's."""
    repo_of(request, to_write="write" in request.url.path)
    hub = hub_of(request)
    document = {"accessToken": "xet-session", "exp": 4_102_444_800, "casUrl": hub.storage_url}
    headers = {
        "X-Xet-Cas-Url": hub.storage_url,
        "X-Xet-Access-Token": "xet-session",
        "X-Xet-Token-Expiration": "4102444800",
    }
    return JSONResponse(document, headers=headers)


R = "/api/{kind}/{namespace}/{name}"
LFS = "/{namespace}/{name}.git/info/lfs/objects"
ROUTES = [
    Route(R + "/preupload/{revision:path}", preupload, methods=["POST"]),
    Route(R + "/commit/{revision:path}", commit, methods=["POST"]),
    Route(R + "/xet-write-token/{revision:path}", xet_token),
    Route(R + "/xet-read-token/{revision:path}", xet_token),
    Route(LFS + "/batch", batch, methods=["POST"]),
    Route(LFS + "/verify", verify, methods=["POST"]),
    Route("/{kind}" + LFS + "/batch", batch, methods=["POST"]),
    Route("/{kind}" + LFS + "/verify", verify, methods=["POST"]),
    Route("/lfs-complete/{oid}", complete, methods=["POST"]),
]
STORAGE = [
    Route("/objects/{oid}", put_object, methods=["PUT"]),
    Route("/objects/{oid}", get_object),
]
