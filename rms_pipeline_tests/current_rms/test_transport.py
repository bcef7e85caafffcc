"""Answers that never end, unpack to gigabytes or lie in their headers, over real sockets."""

import contextlib
import gzip
import itertools
import json
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rms_pipeline.current_rms import answers, transport, wire
from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.current_rms.errors import (
    ApiUnavailable,
    Forbidden,
    NotFound,
    Redirected,
    RequestRefused,
    Throttled,
    Unauthorized,
    Unprocessable,
)
from rms_pipeline.current_rms.pacing import ProcessBudget
from rms_pipeline_tests.conftest import QUICK

MakeClient = Callable[..., CurrentRmsClient]

PAGE = b'{"opportunities":[{"id":36}],"meta":{"total_row_count":1,"per_page":25}}'


def gzipped(content: bytes) -> bytes:
    """By gzip, without the time of now: two processes have to agree on what tests are called."""
    return gzip.compress(content, mtime=0)


ONCE = replace(QUICK, attempts=1)
Speaker = Callable[[socket.socket], None]


@contextlib.contextmanager
def speaking(*turns: bytes | Speaker) -> Iterator[str]:
    """A server that says each of `turns` to one connection, the last one again and again."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        said = 0
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            turn = turns[min(said, len(turns) - 1)]
            said += 1
            threading.Thread(target=speak, args=(connection, turn), daemon=True).start()

    def speak(connection: socket.socket, turn: bytes | Speaker) -> None:
        with connection:
            try:
                while b"\r\n\r\n" not in connection.recv(1 << 16):
                    pass
                if callable(turn):
                    turn(connection)
                else:
                    connection.sendall(turn)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1"
    finally:
        over.set()
        listener.close()


def answer(body: bytes = PAGE, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    if not any(h.lower().startswith("content-type") for h in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


def trickling(before: bytes, byte: bytes) -> Speaker:
    def speak(connection: socket.socket) -> None:
        connection.sendall(before)
        while True:
            connection.sendall(byte)
            time.sleep(0.05)

    return speak


@pytest.mark.parametrize(
    ("before", "byte"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0", b"0"),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 ", b" "),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", b"\x1f\x8b\x08" + b"\0" * 7),
    ],
)
def test_a_trickle_of_bytes_ends_at_the_deadline_wherever_in_the_answer_it_is(
    before: bytes, byte: bytes, client_for: MakeClient
) -> None:
    patience = replace(ONCE, read=20, answer=0.6)
    with speaking(trickling(before, byte)) as url:
        began = time.monotonic()
        with pytest.raises(ApiUnavailable):
            client_for(url, patience=patience).list_records(())
        assert time.monotonic() - began < 3


def test_an_answer_that_is_over_in_time_says_so_when_it_was_not(client_for: MakeClient) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    patience = replace(ONCE, answer=0.4)
    with (
        speaking(trickling(head, b" ")) as url,
        pytest.raises(ApiUnavailable, match=r"did not end within 0\.4 s"),
    ):
        client_for(url, patience=patience).list_records(())


def test_silence_ends_before_the_deadline(client_for: MakeClient) -> None:
    patience = replace(ONCE, read=0.3, answer=20)
    with speaking(lambda connection: time.sleep(3)) as url:
        began = time.monotonic()
        with pytest.raises(ApiUnavailable, match="no answer within the time limit"):
            client_for(url, patience=patience).list_records(())
        assert time.monotonic() - began < 2


def test_an_answer_in_many_pieces_is_read_whole(client_for: MakeClient) -> None:
    def speak(connection: socket.socket) -> None:
        for piece in (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces):
            connection.sendall(piece)
            time.sleep(0.01)

    pieces = [b"%x\r\n%b\r\n" % (len(p), p) for p in (PAGE[:20], PAGE[20:21], PAGE[21:])]
    pieces.append(b"0\r\n\r\n")
    with speaking(speak) as url:
        assert client_for(url).list_records(()).ids == (36,)


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzipped(PAGE)),
        ("x-gzip", gzipped(PAGE)),
        ("GZip", gzipped(PAGE[:9]) + gzipped(PAGE[9:]) + b"\0\0"),
        ("deflate", zlib.compress(PAGE)),
        ("deflate", raw_deflate(PAGE)),
        ("identity", PAGE),
        ("", PAGE),
    ],
)
def test_what_is_packed_is_unpacked(encoding: str, packed: bytes, client_for: MakeClient) -> None:
    with speaking(answer(packed, "200 OK", f"Content-Encoding: {encoding}")) as url:
        assert client_for(url).list_records(()).body == PAGE


@pytest.mark.parametrize(
    ("encoding", "packed", "says"),
    [
        ("br", b"\x0b\x02\x80", "br"),
        ("zstd", b"\x28\xb5\x2f\xfd", "zstd"),
        ("gzip, gzip", gzipped(gzipped(PAGE)), "not requested"),
        ("gzip", PAGE, "cannot be unpacked"),
        ("gzip", gzipped(PAGE)[:-12], "incomplete answer"),
        ("deflate", zlib.compress(PAGE)[:-6], "incomplete answer"),
    ],
)
def test_what_cannot_be_unpacked_is_tried_again_and_then_told(
    encoding: str, packed: bytes, says: str, client_for: MakeClient
) -> None:
    turn = answer(packed, "200 OK", f"Content-Encoding: {encoding}")
    with speaking(turn) as url, pytest.raises(ApiUnavailable, match=says):
        client_for(url, patience=replace(QUICK, attempts=2)).list_records(())
    with speaking(turn, answer()) as url:
        assert client_for(url).list_records(()).ids == (36,)


def gzip_bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(size >> 20)) + packer.flush()


@pytest.mark.parametrize("members", [1, 40])
def test_an_answer_that_unpacks_to_gigabytes_is_cut_off_and_takes_no_memory(
    members: int, client_for: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LARGEST_ANSWER", 8 << 20)
    bomb = gzip_bomb((200 << 20) // members) * members
    turn = answer(bomb, "200 OK", "Content-Encoding: gzip")
    del bomb
    with speaking(turn) as url:
        client = client_for(url, patience=ONCE)
        tracemalloc.start()
        try:
            with pytest.raises(ApiUnavailable, match="more than 8,388,608 bytes"):
                client.list_records(())
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()


def test_an_answer_without_end_is_cut_off_packed_or_not(
    client_for: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LARGEST_ANSWER", 1 << 20)

    def flood(head: bytes, piece: bytes) -> Speaker:
        def speak(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
            while True:
                connection.sendall(piece)

        return speak

    # Blocks of nothing: what is unpacked stays empty for ever.
    empty = b"\0\0\0\xff\xff" * 13_000
    packed = b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10]
    for head, piece in ((b"\r\n", b" " * 65_536), (packed, empty)):
        with speaking(flood(head, piece)) as url, pytest.raises(ApiUnavailable, match="more than"):
            client_for(url, patience=ONCE).list_records(())


HTML = b"<!DOCTYPE html><html><body>Checking your browser</body></html>"


@pytest.mark.parametrize(
    "status",
    ["500", "501", "502", "503", "504", "505", "507", "511", "520", "525", "529", "530", "598",
     "599", "102", "408", "425"],
)  # fmt: skip
def test_every_passing_status_is_tried_again(status: str, client_for: MakeClient) -> None:
    with speaking(answer(b"", f"{status} Whatever"), answer()) as url:
        client = client_for(url)
        assert client.list_records(()).ids == (36,)
        assert client.counts.retried == 1


@pytest.mark.parametrize("status", ["200", "201", "202", "203", "226"])
def test_every_success_is_a_success(status: str, client_for: MakeClient) -> None:
    with speaking(answer(PAGE, f"{status} Transformed")) as url:
        client = client_for(url)
        assert client.list_records(()).ids == (36,)
        assert client.counts.calls == 1


@pytest.mark.parametrize("body", [b"", b"null", PAGE[:40]])
@pytest.mark.parametrize("status", ["200", "204", "206"])
def test_a_success_without_what_was_promised_is_tried_again(
    status: str, body: bytes, client_for: MakeClient
) -> None:
    body = b"" if status == "204" else body
    with speaking(answer(body, f"{status} Partial"), answer()) as url:
        assert client_for(url).list_records(()).ids == (36,)


@pytest.mark.parametrize("status", ["200", "400", "403", "404", "405", "410", "422", "502", "503"])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json"])
def test_a_page_of_a_firewall_is_tried_again_and_then_named(
    status: str, kind: str, client_for: MakeClient
) -> None:
    wall = answer(b"\n " + HTML, f"{status} X", f"Content-Type: {kind}")
    with speaking(wall, wall, answer()) as url:
        assert client_for(url).list_records(()).ids == (36,)
    with speaking(wall) as url, pytest.raises(ApiUnavailable, match=r"HTML.*firewall"):
        client_for(url, patience=replace(QUICK, attempts=3)).list_records(())


def test_a_firewall_that_says_not_found_makes_nobody_believe_that_a_record_is_gone(
    client_for: MakeClient,
) -> None:
    wall = answer(HTML, "404 Not Found", "Content-Type: text/html")
    with speaking(wall) as url, pytest.raises(ApiUnavailable, match="HTML"):
        client_for(url).get_record(36)
    with speaking(answer(b'{"error":"Not found"}', "404 Not Found")) as url:
        assert client_for(url).get_record(36) is None
    with speaking(answer(b"", "404 Not Found")) as url:
        assert client_for(url).get_record(36) is None


NO = b'{"errors":["no"]}'


@pytest.mark.parametrize(
    ("status", "error"),
    [("401 Unauthorized", Unauthorized), ("402 Payment Required", Forbidden),
     ("403 Forbidden", Forbidden), ("404 Not Found", NotFound), ("410 Gone", NotFound),
     ("400 Bad Request", Unprocessable), ("422 Unprocessable", Unprocessable)],
)  # fmt: skip
def test_a_refusal_in_json_is_final_at_once(
    status: str, error: type[RequestRefused], client_for: MakeClient
) -> None:
    with speaking(answer(), answer(NO, status)) as url:
        client = client_for(url)
        client.list_records(())
        # Nothing that is asked for beside it can be meant: it was granted a moment ago.
        with pytest.raises(error):
            client.list_records(())
        assert client.counts.calls == 2
    # Nothing was granted before. That the list itself is not there one more call shows, which asks
    # for nothing else; a parameter that is refused may be an include, and one call more shows that.
    more = {"404": 1, "410": 1, "400": 2, "422": 2}.get(status[:3], 0)
    with speaking(answer(NO, status)) as url:
        client = client_for(url)
        with pytest.raises(error):
            client.list_records(())
        assert client.counts.calls == 1 + more
        assert client.terms.refusals == ()


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
def test_a_single_record_that_is_not_found_costs_at_most_one_call_more(
    status: str, client_for: MakeClient
) -> None:
    with speaking(answer(NO, status)) as url:
        client = client_for(url)
        assert client.get_record(36) is None
        assert client.counts.calls == 2
        assert client.get_record(36, expected=False) is None
        assert client.counts.calls == 3
    found = b'{"opportunity":{"id":36}}'
    with speaking(answer(found), answer(NO, status)) as url:
        client = client_for(url)
        assert client.get_record(36) is not None
        assert client.get_record(37) is None
        assert client.counts.calls == 2


ODD_DATES = [
    "Wed, 25 Nov 99999999999 10:00:00 GMT",
    "25 Nov 2026",
    "",
    "-5",
    "0.5",
    "Wed, 25 Nov 0000 10:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "Mon, 01 Jan 0001 00:00:00 +2359",
    "Wed, 25 Nov 2026 10:00:00 +99999999999999",
    "Wed, 99 Nov 2026 99:99:99 GMT",
    "9" * 5_000,
    "\xff\xfe\x80",
    ", , , ,",
    "Wed, 25 Nov 2026 10:00:00 \xe9\xe8",
]


@pytest.mark.parametrize("value", ODD_DATES)
def test_no_date_raises(value: str, client_for: MakeClient) -> None:
    with speaking(answer(PAGE, "200 OK", f"Date: {value}")) as url:
        answered = client_for(url).list_records(())
    assert answered.ids == (36,)
    assert answered.api_date is None or answered.api_date.tzinfo is UTC


@pytest.mark.parametrize("status", ["429", "503"])
@pytest.mark.parametrize("value", [*ODD_DATES, "86400000", "1e9", "inf", "nan", "-0", "0", "٣"])
def test_no_retry_after_raises_and_none_is_waited_for_long(
    status: str, value: str, client_for: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)

    def pause(_: ProcessBudget, seconds: float) -> float:
        waits.append(seconds)
        return seconds

    monkeypatch.setattr(ProcessBudget, "pause", pause)
    header = f"Retry-After: {value}".encode().decode("latin-1")
    turn = answer(b"", f"{status} Busy", header, "Date: Thu, 26 Nov 2026 10:00:00 GMT")
    with speaking(turn, answer()) as url:
        assert client_for(url).list_records(()).ids == (36,)
    assert sum(waits) <= 60


def test_an_hour_that_is_asked_for_is_believed_and_not_waited_for_here(
    client_for: MakeClient,
) -> None:
    turn = answer(b"", "429 Too Many", "Retry-After: 3600")
    with speaking(turn) as url, pytest.raises(Throttled, match="3600 s more"):
        client_for(url).list_records(())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0.5", 0.5), ("7", 7), ("-5", None), ("Thu, 26 Nov 2026 10:00:09 GMT", 9),
     ("Thu, 26 Nov 2020 10:00:00 GMT", 0), ("9" * 400, float("inf"))],
)  # fmt: skip
def test_a_retry_after_says_how_many_seconds(value: str, seconds: float | None) -> None:
    headers = {"Retry-After": value, "Date": "Thu, 26 Nov 2026 10:00:00 GMT"}
    assert answers.retry_after(headers) == seconds


def test_a_date_is_utc_whatever_its_zone() -> None:
    moment = answers.http_date("Thu, 26 Nov 2026 10:00:00 +0200")
    assert moment == datetime(2026, 11, 26, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: abc",
        "Content-Length: -1",
        "Content-Length: 1, 2",
        "Content-Length: " + "9" * 5_000,
        "X-Long: " + "x" * 70_000,
        "\r\n".join(f"X-{n}: y" for n in range(200)),
        "Transfer-Encoding: chunked",
        "no colon here",
        "Content-Type: \xff\xfe",
        "Content-Encoding: \xff",
        "Set-Cookie: \xff=\xfe; expires=Wed, 25 Nov 99999999999 10:00:00 GMT",
    ],
    ids=lambda head: head[:20],
)
def test_no_header_raises_anything_but_an_error_that_says_what_is_wrong(
    head: str, client_for: MakeClient
) -> None:
    turn = f"HTTP/1.1 200 OK\r\n{head}\r\nConnection: close\r\n\r\n".encode("latin-1") + PAGE
    with speaking(turn) as url:
        ids: tuple[int, ...] = (36,)
        with contextlib.suppress(ApiUnavailable):
            ids = client_for(url, patience=ONCE).list_records(()).ids
    assert ids == (36,)


def test_the_deadline_of_a_thread_is_over_with_its_answer() -> None:
    with wire.deadline(1.0):
        with wire.deadline(2.0):
            pass
        assert wire._here.deadline == 1.0
    assert wire._here.deadline is None


def test_a_large_page_that_fits_is_read(client_for: MakeClient) -> None:
    record = {"id": 36, "description": "mail " * 200_000}
    body = json.dumps({"opportunities": [record] * 25, "meta": {"total_row_count": 25}}).encode()
    with speaking(answer(gzip.compress(body), "200 OK", "Content-Encoding: gzip")) as url:
        assert client_for(url, patience=Patience()).list_records(()).body == body


def after(seconds: float) -> Speaker:
    """Answers with a page after so long."""

    def speak(connection: socket.socket) -> None:
        time.sleep(seconds)
        connection.sendall(answer(PAGE, "200 OK"))

    return speak


def test_a_cache_on_the_way_is_told_to_ask_the_api_each_time(client_for: MakeClient) -> None:
    kept: dict[str, bytes] = {}
    counts = itertools.count(1)

    class Cache(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "no-cache" in self.headers.get("Cache-Control", "") or self.path not in kept:
                said = {"opportunities": [], "meta": {"total_row_count": next(counts)}}
                kept[self.path] = json.dumps(said).encode()
            self.wfile.write(answer(kept[self.path]))

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Cache) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        client = client_for(f"http://127.0.0.1:{server.server_port}")
        assert [client.count(()) for _ in range(2)] == [1, 2]
        server.shutdown()


HURRIED = replace(QUICK, at_first=0.2, attempts=2)


def test_an_api_that_needs_longer_than_a_first_attempt_is_asked_once_from_then_on(
    client_for: MakeClient,
) -> None:
    with speaking(after(0.35)) as url:
        client = client_for(url, patience=HURRIED)
        calls = []
        for _ in range(3):
            assert client.list_records(()).ids == (36,)
            calls.append(client.counts.calls)
    assert calls == [2, 3, 4]


def test_a_dead_connection_costs_a_short_attempt_and_later_ones_are_short_again(
    client_for: MakeClient,
) -> None:
    with speaking(after(9), after(0), after(9), after(0)) as url:
        client = client_for(url, patience=HURRIED)
        started = time.monotonic()
        for _ in range(2):
            assert client.list_records(()).ids == (36,)
        assert time.monotonic() - started < 3
    assert client.counts.calls == 4


def test_an_api_that_has_become_quick_again_is_given_short_first_attempts_again(
    client_for: MakeClient,
) -> None:
    with speaking(after(9), after(0.35), after(0), after(9), after(0)) as url:
        client = client_for(url, patience=replace(HURRIED, read=5.0, answer=5.0))
        for _ in range(2):
            client.list_records(())
        started = time.monotonic()
        client.list_records(())
        assert time.monotonic() - started < 3
    assert client.counts.calls == 5


def test_an_error_that_comes_late_tells_as_well_that_the_api_needs_longer(
    client_for: MakeClient,
) -> None:
    def refuse(connection: socket.socket) -> None:
        time.sleep(0.35)
        connection.sendall(answer(b"", "503 Not now"))

    with speaking(after(9), refuse, after(0.35)) as url:
        client = client_for(url, patience=HURRIED)
        with pytest.raises(ApiUnavailable):
            client.list_records(())
        assert client.list_records(()).ids == (36,)
    assert client.counts.calls == 3


def test_a_first_attempt_is_short_also_if_bytes_trickle(client_for: MakeClient) -> None:
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    with speaking(trickling(begun, b" "), after(0)) as url:
        client = client_for(url, patience=replace(HURRIED, answer=60.0))
        started = time.monotonic()
        assert client.list_records(()).ids == (36,)
        assert time.monotonic() - started < 3


def test_a_question_is_asked_no_oftener_than_patience_allows(client_for: MakeClient) -> None:
    with speaking(answer(b"", "503 Not now")) as url:
        client = client_for(url, patience=replace(QUICK, attempts=2))
        with pytest.raises(ApiUnavailable, match="in 2 attempts"):
            client.list_records((), attempts=3)


def test_each_failure_is_told_with_its_number_and_so_is_the_end_of_them(
    client_for: MakeClient,
) -> None:
    told: list[transport.Failure | None] = []
    bad = b"HTTP/1.1 503 Not now\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    good = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    good += b"Content-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE)
    with speaking(bad, bad, good) as url:
        client = client_for(url, tell=told.append)
        client.list_records(())
        client.list_records(())
        assert [f and (f.attempt, f.attempts) for f in told] == [(1, 8), (2, 8), None]
        first = told[0]
        assert first is not None
        assert "503" in first.reason
        assert 0 < first.wait < 1
    told.clear()
    with speaking(bad) as url, pytest.raises(ApiUnavailable):
        client_for(url, tell=told.append, patience=replace(QUICK, attempts=2)).list_records(())
    # The last one is the reason of the error, and no longer trouble.
    assert [f and f.attempt for f in told] == [1, None]


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("http://127.0.0.1:1", "through the proxy that HTTPS_PROXY"),
        ("", "host name was not found"),
    ],
)
def test_a_network_that_leads_nowhere_is_told_by_its_kind(
    client_for: MakeClient, monkeypatch: pytest.MonkeyPatch, proxy: str, said: str
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, proxy)
    client = client_for("https://no-such-host.invalid/api/v1", patience=ONCE)
    with pytest.raises(ApiUnavailable, match=said):
        client.list_records(())


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (
            "https://new-name.current-rms.com/api/v1/opportunities?key=planted",
            " to new-name.current-rms.com.",
        ),
        ("//Elsewhere.example:8443/x", " to elsewhere.example."),
        ("/users/sign_in", ", a redirect. "),
        ("https://<b>planted</b>/", ", a redirect. "),
        ("", ", a redirect. "),
    ],
)
def test_a_redirect_names_the_host_that_it_leads_to_and_what_to_set(
    client_for: MakeClient, location: str, told: str
) -> None:
    head = f"HTTP/1.1 301 Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    with speaking(head.encode()) as url, pytest.raises(Redirected) as caught:
        client_for(url, patience=ONCE).list_records(())
    text = str(caught.value)
    assert told in text
    assert "CURRENT_RMS_SUBDOMAIN" in text
    assert "planted" not in text


def test_a_redirect_to_what_is_no_address_is_an_answer_that_failed(client_for: MakeClient) -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: https://me:planted@[::1/\r\nContent-Length: 0\r\n\r\n"
    with speaking(head) as url, pytest.raises(ApiUnavailable, match="Location") as caught:
        client_for(url, patience=ONCE).list_records(())
    assert "planted" not in str(caught.value)
