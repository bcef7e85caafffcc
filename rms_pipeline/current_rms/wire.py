"""Receives the bytes of one answer: before one deadline, however slowly they come, and not too
many.

This module has connections that know a deadline, and unpacks what came. Which requests are made,
how often, and what a status means is in `transport`.
"""

import contextlib
import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import urllib3
from isal import isal_zlib  # zlib's format, four times as fast
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

# The encodings that `unpacked` can undo. No others are requested.
ACCEPTED_ENCODINGS = "gzip, deflate"

_STEP = 1 << 16
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15
_GZIP_MAGIC = b"\x1f\x8b"

_here = threading.local()


class TooLarge(Exception):
    """The answer, when unpacked, is larger than any sensible answer."""


class NotUnpackable(Exception):
    """The answer is packed in a way that was not requested, or it broke off."""


@contextlib.contextmanager
def deadline(at: float) -> Iterator[None]:
    """Everything that this thread receives has to arrive before `time.monotonic()` reaches `at`.

    After that, a read raises TimeoutError, in the headers and between any bytes of the body. A
    socket's own time limit is not enough, because it starts again with each byte.
    """
    before = getattr(_here, "deadline", None)
    _here.deadline = at
    try:
        yield
    finally:
        _here.deadline = before


class DeadlineAdapter(HTTPAdapter):
    """Sends requests over connections that obey `deadline`, through proxies as well."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager


def read_body(raw: urllib3.BaseHTTPResponse, most: int) -> bytes:
    """Return the whole body of `raw`, unpacked.

    Raises TooLarge as soon as more than `most` bytes have come (packed or not), NotUnpackable, or
    what urllib3 raises for an answer that breaks off.
    """
    return b"".join(unpacked(_received(raw), raw.headers.get("Content-Encoding") or "", most))


def unpacked(packed: Iterator[bytes], encoding: str, most: int) -> Iterator[bytes]:
    """Undo the `Content-Encoding` of `packed`. See `read_body`."""
    names = [name.strip().lower().removeprefix("x-") for name in encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > 1 or not {*names} <= {"gzip", "deflate"}:
        raise NotUnpackable(f"an answer packed as {encoding[:50]!r}, which was not requested")
    received = _counted(packed, most)
    return _counted(_inflated(received, names[0]), most) if names else received


def _received(raw: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    while chunk := raw.read1(_STEP, decode_content=False):
        yield chunk


def _counted(chunks: Iterator[bytes], most: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise TooLarge(f"an answer of more than {most:,} bytes")
        yield chunk


def _inflated(packed: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    stream, began = None, False
    for chunk in packed:
        while chunk:
            if stream is None:
                if began and not chunk.startswith(_GZIP_MAGIC):
                    return  # Padding behind the end.
                stream, began = isal_zlib.decompressobj(_kind(encoding, chunk)), True
            try:
                out = stream.decompress(chunk, _STEP)
            except isal_zlib.error as error:  # type: ignore[misc]
                raise NotUnpackable(f"an answer that cannot be unpacked ({error})") from None
            if out:
                yield out
            if stream.eof:
                chunk, stream = stream.unused_data, None
            else:
                chunk = stream.unconsumed_tail
                if not out and not chunk:
                    break
    while stream is not None and (out := stream.decompress(b"", _STEP)):
        yield out
    if stream is not None and not stream.eof:
        raise NotUnpackable("an incomplete answer (the connection ended)")


def _kind(encoding: str, start: bytes) -> int:
    if encoding == "gzip":
        return _GZIP
    # "deflate" means zlib's format, but some servers leave out its frame.
    has_frame = start[0] & 0x0F == 8 and (len(start) < 2 or (start[0] << 8 | start[1]) % 31 == 0)
    return _ZLIB if has_frame else _RAW_DEFLATE


class _Timed(io.RawIOBase):
    """Reads of a socket, each limited by the time left until the thread's deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._socket = raw, sock
        self._longest = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        at = getattr(_here, "deadline", None)
        if at is not None:
            left = at - time.monotonic()
            if left <= 0:
                raise TimeoutError("the time limit was reached")
            self._socket.settimeout(left if self._longest is None else min(left, self._longest))
        return cast(int | None, self._raw.readinto(buffer))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._raw.close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS: dict[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": _SecurePool}
