"""Downloads: small files from the Hub, large ones by a redirect to the storage."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.small_hub.answers import commit_of, hub_of, no, repo_of
from tests.small_hub.uploads import ranged


async def resolve(request: Request) -> Response:
    repo = repo_of(request)
    commit = commit_of(request, repo)
    path = request.path_params["path"]
    file = commit.files.get(path)
    if file is None:
        raise no(404, "Entry not found", "EntryNotFound")
    headers = {"X-Repo-Commit": commit.oid}
    if not file.is_lfs:
        return ranged(request, file.content, {**headers, "ETag": f'"{file.blob_id}"'})
    hub = hub_of(request)
    hub.stored.setdefault(file.sha256, file.content)  # where a test put it into the repo
    headers |= {
        "Location": f"{hub.storage_url}/objects/{file.sha256}",
        "X-Linked-Etag": f'"{file.sha256}"',
        "X-Linked-Size": str(len(file.content)),
    }
    return Response(status_code=302, headers=headers)


ROUTES = [
    Route("/{namespace}/{name}/resolve/{revision}/{path:path}", resolve),
    Route("/{kind}/{namespace}/{name}/resolve/{revision}/{path:path}", resolve),
]
