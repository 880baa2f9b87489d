"""What a Space has beside its files: secrets, variables, hardware, sleep time, volumes, runtime."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.small_hub.answers import body_of, hub_of, no, repo_of, user_of
from tests.small_hub.state import Repo

# Name → dollars a minute, made up in the shape in which the Hub lists them.
HARDWARE = {"cpu-basic": 0.0, "cpu-upgrade": 0.0005, "t4-small": 0.006667, "l4x1": 0.013333}


def _settings(request: Request, *, to_write: bool = True) -> dict[str, Any]:
    request.path_params["kind"] = "spaces"
    repo = repo_of(request, to_write=to_write)
    settings = hub_of(request).space_settings.setdefault(repo.id, {})
    for name, empty in (("secrets", {}), ("variables", {}), ("volumes", [])):
        settings.setdefault(name, empty)
    settings.setdefault("hardware", "cpu-basic")
    settings.setdefault("sleep_time", None)
    return settings


def _runtime(settings: dict[str, Any]) -> JSONResponse:
    hardware = {"current": settings["hardware"], "requested": settings["hardware"]}
    runtime = {"stage": "RUNNING", "hardware": hardware, "gcTimeout": settings["sleep_time"]}
    return JSONResponse(runtime | {"volumes": settings["volumes"]})


async def secrets(request: Request) -> JSONResponse:
    """Secrets can be set and deleted; what they hold is never told."""
    held = _settings(request)["secrets"]
    if request.method == "POST":
        asked = await body_of(request)
        held[asked["key"]] = asked["value"]
    elif request.method == "DELETE":
        held.pop((await body_of(request))["key"], None)
    return JSONResponse({key: {} for key in held})


async def variables(request: Request) -> JSONResponse:
    held = _settings(request, to_write=request.method != "GET")["variables"]
    if request.method == "POST":
        asked = await body_of(request)
        held[asked["key"]] = asked["value"]
    elif request.method == "DELETE":
        held.pop((await body_of(request))["key"], None)
    return JSONResponse({key: {"value": value} for key, value in held.items()})


async def hardware(request: Request) -> JSONResponse:
    settings, asked = _settings(request), await body_of(request)
    settings["hardware"] = asked["flavor"]
    if "sleepTimeSeconds" in asked:
        settings["sleep_time"] = asked["sleepTimeSeconds"]
    return _runtime(settings)


async def sleep_time(request: Request) -> JSONResponse:
    settings = _settings(request)
    settings["sleep_time"] = (await body_of(request))["seconds"]
    return _runtime(settings)


async def volumes(request: Request) -> JSONResponse:
    settings = _settings(request)
    settings["volumes"] = (await body_of(request))["volumes"] if request.method == "PUT" else []
    return JSONResponse({})


async def create_bucket(request: Request) -> JSONResponse:
    """Storage to mount; nothing is kept in it here."""
    user, hub, asked = user_of(request), hub_of(request), await body_of(request)
    namespace = request.path_params["namespace"]
    bucket = f"{namespace}/{request.path_params['name']}"
    if not (user and user.may_write(namespace, bucket)):
        raise no(403, "You don't have the rights to create a bucket under this namespace")
    document = {"id": bucket, "url": f"{hub.url}/buckets/{bucket}"}
    if f"buckets/{bucket}" in hub.repos:
        return JSONResponse(document | {"error": "You already created this bucket"}, 409)
    private = asked.get("visibility") == "private"
    hub.repos[f"buckets/{bucket}"] = Repo(bucket, "buckets", private)
    return JSONResponse(document)


async def runtime(request: Request) -> JSONResponse:
    return _runtime(_settings(request, to_write=request.method != "GET"))


async def hardware_list(request: Request) -> JSONResponse:
    listed = [
        {
            "name": name,
            "prettyName": name,
            "cpu": "2 vCPU",
            "ram": "16 GB",
            "accelerator": None,
            "unitCostMicroUSD": round(dollars * 1e6),
            "unitCostUSD": dollars,
            "unitLabel": "minute",
        }
        for name, dollars in HARDWARE.items()
    ]
    return JSONResponse(listed)


S = "/api/spaces/{namespace}/{name}"
ROUTES = [
    Route("/api/spaces/hardware", hardware_list),
    Route("/api/jobs/hardware", hardware_list),
    Route("/api/buckets/{namespace}/{name}", create_bucket, methods=["POST"]),
    Route(S + "/secrets", secrets, methods=["GET", "POST", "DELETE"]),
    Route(S + "/variables", variables, methods=["GET", "POST", "DELETE"]),
    Route(S + "/hardware", hardware, methods=["POST"]),
    Route(S + "/sleeptime", sleep_time, methods=["POST"]),
    Route(S + "/volumes", volumes, methods=["PUT", "DELETE"]),
    Route(S + "/runtime", runtime),
    Route(S + "/pause", runtime, methods=["POST"]),
    Route(S + "/restart", runtime, methods=["POST"]),
]
