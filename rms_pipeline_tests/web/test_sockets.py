"""Clients that take their time, or far too much room: the service is there for everybody else."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import requests
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from rms_pipeline.web.server import server_config
from rms_pipeline.web.sockets import Limits
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.web.conftest import API_TOKEN, WEBHOOK_TOKEN, Web

# Waiting is all that these tests do: so as little as a busy machine allows.
QUICK = Limits(
    connections=40,
    connections_of_one_address=20,
    header_seconds=0.6,
    header_bytes=8_192,
    body_seconds=0.6,
    body_rate=1_000_000,
    stall_seconds=0.5,
    drain_seconds=0.4,
)
MUCH = 64 * 1024 * 1024


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """/big sends much, /early answers before the body, everything else reads the body first."""
    assert scope["type"] == "http"
    request = Request(scope, receive)
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    try:
        body = b"early" if scope["path"] == "/early" else await request.body()
    except ClientDisconnect:
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/big":
        for _ in range(MUCH // 65_536):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def listening(limits: Limits) -> Iterator[tuple[int, uvicorn.Server]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = server_config(application, "127.0.0.1", 0, limits=limits)
    config.lifespan = "off"
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listener.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(QUICK) as (number, _):
        yield number


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def what_comes(connection: socket.socket) -> bytes:
    """Until the other end closes; nothing when it has hung up."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while received := connection.recv(65_536):
            found += received
    return found


def refused(answer: bytes, status: int) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"connection: close" in head
    told = json.loads(body)
    assert told["success"] is False
    return str(told["error"])


def drip(connection: socket.socket, first: bytes, again: bytes, seconds: float = 5) -> bytes:
    """Sends a little now and then until the other end has had enough; what it said."""
    connection.settimeout(0.05)
    connection.sendall(first)
    answer, until = b"", time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with contextlib.suppress(TimeoutError):
                received = connection.recv(65_536)
                answer += received
                if not received:
                    return answer
            connection.sendall(again)
        except ConnectionError:
            # Who goes on sending may miss what was said.
            return answer
    raise AssertionError("it was waited for")


@pytest.mark.parametrize("first", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_header_that_does_not_end_is_waited_for_no_longer_than_one_that_is_silent(
    port: int, first: bytes
) -> None:
    began = time.monotonic()
    with connect(port) as dripping, connect(port) as silent:
        silent.sendall(first)
        answer = drip(dripping, first, b"X")
        said = what_comes(silent)
        assert time.monotonic() - began < 3
    if answer:
        assert "took too long to arrive" in refused(answer, 408)
    # Nothing was begun by who said nothing, so there is nothing to answer.
    assert "took too long to arrive" in refused(said, 408) if first else said == b""


@pytest.mark.parametrize("piece", [b"A" * 4096, b"A: b\r\n" * 500, b"A: " + b"\t" * 4000])
def test_an_endless_header_is_cut_off(port: int, piece: bytes) -> None:
    with connect(port) as connection:
        began = time.monotonic()
        answer = drip(connection, b"GET / HTTP/1.1\r\nHost: x\r\nB: ", piece)
        assert time.monotonic() - began < 2
    if answer:
        assert "too big" in refused(answer, 431)


def test_an_endless_address_is_cut_off(port: int) -> None:
    with connect(port) as connection:
        answer = drip(connection, b"GET /", b"a" * 4096)
    if answer:
        assert "too big" in refused(answer, 431)


@pytest.mark.parametrize("head", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_a_body_that_trickles_is_not_waited_for(port: int, head: str) -> None:
    again = b"1\r\nx\r\n" if "chunked" in head else b"x"
    began = time.monotonic()
    with connect(port) as connection:
        answer = drip(connection, f"POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode(), again)
    assert time.monotonic() - began < 3
    if answer:
        assert "took too long to arrive" in refused(answer, 408)


def test_a_body_that_comes_slowly_but_comes_is_read() -> None:
    with (
        listening(Limits(body_seconds=0.3, body_rate=1024)) as (port, _),
        connect(port) as connection,
    ):
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                           b"Content-Length: 4096\r\n\r\n")  # fmt: skip
        for _ in range(8):
            connection.sendall(b"x" * 512)
            time.sleep(0.1)
        assert b"x" * 4096 in what_comes(connection)


def test_what_follows_an_answer_that_was_given_early_is_not_read_without_end(port: int) -> None:
    began = time.monotonic()
    with connect(port) as connection:
        head = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
        answer = drip(connection, head, b"x" * 1000)
    assert b"early" in answer
    assert time.monotonic() - began < 3


def test_a_client_that_does_not_read_is_disconnected_and_a_slow_reader_is_not() -> None:
    ask = b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    # Longer than a busy machine lets the slow reader wait for its turn.
    limits = replace(QUICK, stall_seconds=2)
    with listening(limits) as (port, _), connect(port) as asleep, connect(port) as slow:
        asleep.sendall(ask)
        slow.sendall(ask)
        got = 0
        while received := slow.recv(1024 * 1024):
            got += len(received)
            if got < 8 * 1024 * 1024:
                time.sleep(0.05)
        assert got > MUCH
        time.sleep(4)
        # What is in the buffers of the system, and then the end: not all of it.
        assert len(what_comes(asleep)) < MUCH


def test_an_answer_that_takes_time_is_no_fault_of_the_client(port: int) -> None:
    assert requests.get(f"http://127.0.0.1:{port}/slow", timeout=10).status_code == 200


def test_half_sent_requests_make_room_for_whole_ones(port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            held = stack.enter_context(connect(port))
            held.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            answer = requests.get(f"http://127.0.0.1:{port}/", timeout=5)
            assert answer.status_code == 200


@pytest.mark.parametrize(("all_", "of_one"), [(3, 3), (3, 100), (100, 3)])
def test_connections_that_are_all_at_work_are_kept_and_one_more_is_told_so(
    all_: int, of_one: int
) -> None:
    limits = Limits(connections=all_, connections_of_one_address=of_one)
    with listening(limits) as (port, _), contextlib.ExitStack() as stack:
        busy = [stack.enter_context(connect(port)) for _ in range(3)]
        for connection in busy:
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(0.3)
        with connect(port) as one_more:
            assert "Too many connections" in refused(what_comes(one_more), 503)
        for connection in busy:
            assert what_comes(connection).startswith(b"HTTP/1.1 200")
        assert requests.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 200


@pytest.mark.parametrize("together", [False, True], ids=["one", "pipelined"])
def test_answers_that_nobody_reads_make_room_for_others(together: bool) -> None:
    limits = Limits(connections=6, connections_of_one_address=3, stall_seconds=60)
    ask = b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n" * (3 if together else 1)
    with listening(limits) as (port, _), contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(connect(port)).sendall(ask)
        until = time.monotonic() + 10
        while "the kernel's buffers fill":
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 200:
                    break
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_slow_reader_no_longer_counts_as_waiting_once_it_reads_again() -> None:
    limits = Limits(connections=3, connections_of_one_address=2)
    with listening(limits) as (port, _), connect(port) as slow:
        slow.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(0.3)
        with connect(port) as silent:
            # It began to wait before the one that says nothing, but has read since.
            got = len(slow.recv(1024 * 1024))
            while got < MUCH // 2:
                got += len(slow.recv(1024 * 1024))
            time.sleep(0.3)
            assert requests.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 200
            assert what_comes(silent) == b""
        while received := slow.recv(1024 * 1024):
            got += len(received)
        assert got > MUCH


@pytest.mark.parametrize("lengths", [
    ["Content-Length: 5", "Transfer-Encoding: chunked"],
    ["transfer-encoding: CHUNKED", "Content-Length: 0"],
])  # fmt: skip
def test_a_body_of_two_lengths_is_refused_and_nothing_behind_it_is_read(
    port: int, lengths: list[str]
) -> None:
    """A proxy that believes the other one takes what follows for another person's request."""
    head = "\r\n".join(["POST /early HTTP/1.1", "Host: x", *lengths, "", ""])
    with connect(port) as connection:
        connection.sendall(f"{head}0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert "Transfer-Encoding" in refused(what_comes(connection), 400)


def assert_settled(server: uvicorn.Server, connections: int) -> None:
    here = server.server_state.connections
    wait_until(lambda: len(here) == connections)
    # It stays so.
    time.sleep(0.3)
    assert len(here) == connections


def test_one_address_does_not_take_all_and_a_proxy_may() -> None:
    for proxies, most in (((), 2), (("127.0.0.0/8",), 6)):
        limits = Limits(connections=6, connections_of_one_address=2, many_behind=proxies)
        with listening(limits) as (port, server), contextlib.ExitStack() as stack:
            for _ in range(12):
                held = stack.enter_context(connect(port))
                held.sendall(b"GET / HT")
            assert_settled(server, most)


@pytest.mark.parametrize("sent", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n A: folded\r\n\r\n" b"\x00\x00",
])  # fmt: skip
def test_what_is_not_http_is_answered_and_done_with(
    port: int, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(port) as connection:
        connection.sendall(sent)
        answer = what_comes(connection)
    assert answer == b"" or answer.split()[1] in (b"400", b"408", b"200")
    assert caplog.text == ""
    assert requests.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 200


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "anything"])
def test_where_there_is_no_websocket_an_upgrade_is_a_request_like_others(
    port: int, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": protocol, "Sec-WebSocket-Version": "13"}
    for _ in range(3):
        assert requests.get(f"http://127.0.0.1:{port}/", headers=headers, timeout=5).ok
    assert caplog.text == ""


def test_pipelined_requests_are_answered_in_turn(port: int) -> None:
    one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
    with connect(port) as connection:
        connection.sendall(b"".join(one + str(n).encode() for n in range(9)) + last + b"9")
        answers = what_comes(connection).split(b"HTTP/1.1 200")
    # The body of each is chunked: its size, itself, the end.
    assert [a.split(b"\r\n1\r\n")[1][:1] for a in answers[1:]] == [b"%d" % n for n in range(10)]


def test_an_old_client_of_http_1_0_is_answered(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert what_comes(connection).startswith(b"HTTP/1.1 200")


def test_1100_half_sent_requests_neither_starve_nor_slow_the_service(
    serve: Callable[..., Web],
) -> None:
    web = serve(fast_lane=False)
    port = int(web.url.rpartition(":")[2])
    starts = [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ",
        b"POST /login HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: same-origin\r\n"
        b"Content-Length: 9000\r\n\r\ntoken=",
        f"POST /api/webhook/{WEBHOOK_TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{{"
        .encode(),
        b"",
    ]  # fmt: skip
    slowest = 0.0
    with contextlib.ExitStack() as stack:
        for number in range(1_100):
            # This process has as many files open as the service, which is in it.
            held = connect(port)
            if number < 450:
                stack.enter_context(held)
            with contextlib.suppress(ConnectionError):
                held.sendall(starts[number % len(starts)])
            if number >= 450:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x00" * 8)
                stack.callback(held.close)
                if number % 2:
                    held.close()
            if number % 100 == 99:
                began = time.monotonic()
                assert requests.get(f"{web.url}/healthz", timeout=10).status_code == 200
                slowest = max(slowest, time.monotonic() - began)
        headers = {"Authorization": f"Bearer {API_TOKEN}"}
        assert requests.get(f"{web.url}/metrics", headers=headers, timeout=10).status_code == 200
    assert slowest < 5
