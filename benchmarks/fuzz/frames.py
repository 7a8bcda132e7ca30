"""How a request is sent: its path and headers, and how it is packed. It is drawn, so that a case can be repeated."""

from __future__ import annotations

import gzip
import http.client
import zlib
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import NamedTuple

import grpc

GRPC, STREAM, REST = "grpc", "stream", "rest"
BARE = ("bare_FP32", "bare_INT16", "bare_pairs", "bare_BYTES")
"""Models with one input, which takes a body that is nothing but a tensor."""

LENGTH = "Inference-Header-Content-Length"
_PATH = "/v2/models/report/infer"
_ODD = 0.35
_FITTING = 0.7
_PADDING = b"\xc2\x3e\xc8\x01" + bytes(200)
"""A field that nobody knows: gRPC sends a message as it is that would not get smaller."""

_COMPRESSIONS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


class Frame(NamedTuple):
    """What goes around a request: for HTTP a path and headers; how it is packed; for gRPC how that packs it."""

    path: str = _PATH
    headers: tuple[tuple[str, str], ...] = ()
    packing: str = ""
    compression: str = ""


class Case(NamedTuple):
    """The way, the message or JSON, and what is behind the JSON. Without a frame it is sent as stock clients do."""

    way: str
    message: bytes
    behind: bytes = b""
    frame: Frame | None = None

    def framed(self) -> Frame:
        """What goes around it."""
        if self.frame is not None:
            return self.frame
        return Frame(headers=((LENGTH, str(len(self.message))),) if self.way == REST and self.behind else ())

    def packed(self) -> bytes:
        """What is sent."""
        frame = self.framed()
        padding = _PADDING if frame.compression else b""
        return _PACKINGS[frame.packing](self.message + self.behind + padding)

    def compression(self) -> grpc.Compression:
        """What gRPC is to do with it."""
        return _COMPRESSIONS.get(self.framed().compression, grpc.Compression.NoCompression)


def framed(case: Case, rng: Random) -> Case:
    """The case in a frame that stock clients don't send, or seldom."""
    if case.way != REST:
        return case._replace(
            frame=Frame(packing=_rarely(_UNASKED, rng), compression=rng.choice(("gzip", "deflate", "")))
        )
    if rng.random() < _ODD / 2:
        return _bare(rng)
    json_bytes, size = len(case.message), len(case.message) + len(case.behind)
    right = (str(json_bytes),) if case.behind or rng.random() < _ODD else ()
    lengths = right if rng.random() < _ODD else rng.choice(_LENGTHS)(json_bytes, size)
    codings, packing = _coding(rng)
    headers = tuple((LENGTH, each) for each in lengths) + tuple(("Content-Encoding", each) for each in codings)
    return case._replace(frame=Frame(_rarely(_PATHS, rng), headers, packing))


def post(connection: http.client.HTTPConnection, case: Case) -> bool:
    """Send a case over HTTP. Whether there was an answer that is no error.

    Raises:
        OSError, http.client.HTTPException: there was none, and the connection is of no use any more.
    """
    body, frame = case.packed(), case.framed()
    connection.putrequest("POST", frame.path)
    for name, value in (("Content-Length", str(len(body))), *frame.headers):
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    answer.read()
    return answer.status == http.HTTPStatus.OK


def _bare(rng: Random) -> Case:
    """A body that is nothing but a tensor."""
    body = rng.randbytes(rng.choice((0, 1, 2, 3, 4, 8, 12, 16, 24)))
    codings, packing = _coding(rng)
    path = f"/v2/models/{rng.choice((*BARE, 'report'))}{rng.choice(('', '', '/versions/1'))}/infer"
    length = rng.choice(("0", "0", "0", "0", "00", "-0", "+0", "0 ", "0x"))
    headers = ((LENGTH, length), *(("Content-Encoding", each) for each in codings))
    return Case(REST, body, frame=Frame(path, headers, packing))


def _coding(rng: Random) -> tuple[tuple[str, ...], str]:
    """Values of the header, and a packing that goes with the first of them, more often than not."""
    if rng.random() < _ODD:
        return (), _rarely(_UNASKED, rng)
    codings = rng.choice(_CODINGS)
    fitting = [name for name in _PACKINGS if name.startswith(codings[0].lower() or "none")]
    return codings, rng.choice(fitting if fitting and rng.random() < _FITTING else list(_PACKINGS))


def _rarely(others: tuple[str, ...], rng: Random) -> str:
    """The first of them more often than all others."""
    return others[0] if rng.random() < _FITTING else rng.choice(others)


def _cut(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)[:-4]


def _with_a_wrong_check(data: bytes) -> bytes:
    packed = bytearray(gzip.compress(data, mtime=0))
    packed[-8] ^= 1
    return bytes(packed)


def _headless(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


_PACKINGS: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType(
    {
        "": bytes,
        "gzip": lambda data: gzip.compress(data, mtime=0),
        "deflate": zlib.compress,
        "gzip, stored": lambda data: gzip.compress(data, 0, mtime=0),
        "gzip, twice": lambda data: gzip.compress(gzip.compress(data, mtime=0), mtime=0),
        "gzip, in two parts": lambda data: b"".join(
            gzip.compress(half, mtime=0) for half in (data[: len(data) // 2], data[len(data) // 2 :])
        ),
        "gzip, and another": lambda data: gzip.compress(data, mtime=0) + gzip.compress(b" ", mtime=0),
        "gzip, and more": lambda data: gzip.compress(data, mtime=0) + b"more",
        "gzip, cut short": _cut,
        "gzip, with a wrong check": _with_a_wrong_check,
        "deflate, without a head": _headless,
        "deflate, and more": lambda data: zlib.compress(data) + b"more",
        "deflate, cut short": lambda data: zlib.compress(data)[:-2],
    }
)
_UNASKED = ("", *_PACKINGS)
_CODINGS = (
    *[("gzip",), ("deflate",)] * 4,
    *[("identity",), ("",), ("GZIP",), ("gzip, deflate",), ("x-gzip",), ("br",)],
    *[("gzip", "identity"), ("identity", "gzip"), ("gzip", "deflate"), ("gzip", "gzip")],
)
_LENGTHS: tuple[Callable[[int, int], tuple[str, ...]], ...] = (
    lambda _json, _size: (),
    lambda _json, _size: ("0",),
    lambda json, _size: (str(json + 1),),
    lambda json, _size: (str(max(0, json - 1)),),
    lambda _json, size: (str(size),),
    lambda _json, size: (str(size + 1),),
    lambda _json, size: (str(size + 100),),
    lambda json, _size: (str(json + (1 << 32)),),
    lambda json, _size: (str(json + (1 << 64)),),
    lambda json, _size: (f"-{json}",),
    lambda json, _size: (f"+{json}",),
    lambda json, _size: (f"0{json}",),
    lambda json, _size: (f"{json}x",),
    lambda json, _size: (f"{json}.0",),
    lambda json, _size: (f" {json} ",),
    lambda json, _size: (f"0x{json:x}",),
    lambda json, _size: (f"{json}, {json}",),
    lambda _json, _size: ("",),
    lambda json, _size: (str(json), "0"),
    lambda json, _size: ("0", str(json)),
    lambda json, size: (str(json), str(size)),
    lambda json, _size: (str(json), str(json)),
)
_VERSIONS = ("1", "2", "01", "0", "-1", "+1", "1.0", "1x", "%201", "1%20", "%31", "", "18446744073709551617", "1%00")
_NAMES = ("%72eport", "report%00", "report%00x", "Report", "report%2F", "%2e%2e", "nobody")
_PATHS = (
    _PATH,
    *(f"/v2/models/report/versions/{version}/infer" for version in _VERSIONS),
    *(f"/v2/models/{name}/infer" for name in _NAMES),
    *(f"{_PATH}{end}" for end in ("?a=1", "/", "#a", ";a=1", "%3Fa=1", "%00", "?a=1/infer")),
    "//v2/models/report/infer",
    "/v2//models/report/infer",
    "/v2/./models/report/infer",
    "/v2/models/bare_FP32/../report/infer",
    "/V2/models/report/infer",
    "http://127.0.0.1/v2/models/report/infer",
    "/v2/models/report/versions/1/versions/2/infer",
    "/v2/models/report%2Fversions%2F1/infer",
)  # fmt: skip
