"""
The storage's other way in, by which hf_xet sends files: chunks in xorbs, and shards that say which
chunks make up which file. What a shard completes is put beside the files that came by Git LFS.

Formats as hf_xet 1.8 sends them: https://huggingface.co/docs/xet/index
Not covered: deduplication (no chunk is known before), grants to send xorbs elsewhere, downloads
(files are served like those of Git LFS), and checking the hashes of chunks: the sha256 of the whole
file is checked.
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from tests.small_hub.server import SmallHub

ENTRY = 48  # bytes of every record in a shard
WITH_VERIFICATION, WITH_METADATA = 1 << 31, 1 << 30
END_OF_FILES = b"\xff" * 32


def chunks(xorb: bytes) -> Iterator[bytes]:
    """The chunks of a xorb, one after another: a header of 8 bytes, then the data."""
    at = 0
    while at + 8 <= len(xorb) and xorb[at] == 0:
        packed, scheme = int.from_bytes(xorb[at + 1 : at + 4], "little"), xorb[at + 4]
        size = int.from_bytes(xorb[at + 5 : at + 8], "little")
        yield unpacked(xorb[at + 8 : at + 8 + packed], scheme, size)
        at += 8 + packed


def unpacked(data: bytes, scheme: int, size: int) -> bytes:
    """One chunk: stored (0), an LZ4 frame (1), or one of every fourth byte in turn (2)."""
    if scheme == 0:
        return data
    plain = pyarrow.Codec("lz4").decompress(data, size).to_pybytes()
    if scheme == 1:
        return plain
    whole, at = bytearray(size), 0
    for group in range(4):
        length = len(range(group, size, 4))
        whole[group::4] = plain[at : at + length]
        at += length
    return bytes(whole)


def hash_text(raw: bytes) -> str:
    """A hash as addresses spell it: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def files(shard: bytes) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Of every file in a shard: its sha256, and its parts as xorb, first chunk, end of chunks."""
    at = ENTRY  # the shard's own header is as long as a record
    while shard[at : at + 32] != END_OF_FILES:
        flags, count = struct.unpack("<2I", shard[at + 32 : at + 40])
        parts = []
        for number in range(count):
            entry = shard[at + ENTRY * (1 + number) :][:ENTRY]
            first, end = struct.unpack("<2I", entry[40:48])
            parts.append((hash_text(entry[:32]), first, end))
        at += ENTRY * (1 + count + (count if flags & WITH_VERIFICATION else 0))
        if flags & WITH_METADATA:
            yield hash_text(shard[at : at + 32]), parts
            at += ENTRY


async def put_xorb(request: Request) -> JSONResponse:
    hub: SmallHub = request.app.state.hub
    hub.xorbs[request.path_params["hash"]] = list(chunks(await request.body()))
    return JSONResponse({"was_inserted": True})


async def put_shard(request: Request) -> Response:
    hub: SmallHub = request.app.state.hub
    for sha256, parts in files(await request.body()):
        content = b"".join(b"".join(hub.xorbs[xorb][first:end]) for xorb, first, end in parts)
        if hashlib.sha256(content).hexdigest() != sha256:
            return Response("The chunks do not make up the file", 400)
        hub.stored[sha256] = content
    return JSONResponse({"result": 1})


ROUTES = [
    Route("/v1/xorbs/default/{hash}", put_xorb, methods=["POST"]),
    Route("/v1/shards", put_shard, methods=["POST"]),
    Route("/shards", put_shard, methods=["POST"]),
]
