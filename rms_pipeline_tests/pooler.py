"""A minimal transaction pooler for PostgreSQL.

Each transaction of a client goes to the server connection that was free last, as with PgBouncer's
`pool_mode = transaction`. It speaks the simple query protocol over TCP, without passwords or TLS.
psycopg2 needs no more if the server trusts it.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

_ASKS_FOR_ENCRYPTION = {80877103, 80877104}


class Pooler:
    """Serves the database of `url`, whose server is on a Unix socket.

    `mode` is PgBouncer's: "statement" disconnects a client that begins a transaction, "session"
    leaves each client its server connection. In every mode startup options are refused, as
    PgBouncer does unless it is configured to ignore them.
    """

    def __init__(self, url: str, mode: str = "transaction") -> None:
        self._mode = mode
        parts = urlsplit(url)
        self._socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._user, self._name = parts.username or "", parts.path.removeprefix("/")
        self._free: list[socket.socket] = []
        self._opened: list[socket.socket] = []
        self._clients: list[tuple[threading.Thread, socket.socket]] = []
        self._lock = threading.Lock()
        self._greeting = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"postgresql://{self._user}@127.0.0.1:{port}/{self._name}"
        self.servers = 0
        # What each transaction of each client began with.
        self.said: list[bytes] = []

    def serve(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                follower = threading.Thread(target=self._follow, args=(client,), daemon=True)
                self._clients.append((follower, client))
                follower.start()

    def stop(self) -> None:
        """Accept no more clients. `serve` then returns."""
        self._listener.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End every client and then every server connection, after `serve` has returned."""
        for follower, client in self._clients:
            # Most have gone by themselves. The others notice now.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            follower.join(5)
        # Not only the free ones: a client that left in the middle of a transaction leaves one
        # behind.
        for server in self._opened:
            server.close()

    def _follow(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError):
            while True:
                (length,) = struct.unpack("!I", _exactly(client, 4))
                start = _exactly(client, length - 4)
                if struct.unpack("!I", start[:4])[0] not in _ASKS_FOR_ENCRYPTION:
                    break
                client.sendall(b"N")
            if b"\0options\0" in start:
                client.sendall(_error("unsupported startup parameter: options"))
                return
            kept = self._take()
            if self._mode != "session":
                self._give_back(kept)
            client.sendall(self._greeting)
            while self._transaction(client, kept if self._mode == "session" else None):
                pass

    def _transaction(self, client: socket.socket, kept: socket.socket | None) -> bool:
        """Pass on one transaction of `client`. Returns False when the client says goodbye."""
        kind, message = _message(client)
        self.said.append(message)
        if kind == b"X" or (self._mode == "statement" and message[5:10] == b"BEGIN"):
            return False
        server = kept or self._take()
        # If a client leaves in the middle of a transaction, its server connection is closed, as
        # with PgBouncer.
        with contextlib.ExitStack() as broken:
            broken.callback(server.close)
            while not (done := self._statement(client, server, message)).endswith(b"I"):
                client.sendall(done)
                kind, message = _message(client)
                if kind == b"X":
                    return False
            broken.pop_all()
        # Before the client gets the answer, so that a following request finds this connection free.
        if kept is None:
            self._give_back(server)
        client.sendall(done)
        return True

    def _statement(self, client: socket.socket, server: socket.socket, message: bytes) -> bytes:
        """Pass on `message` and its answers, except the last one, which says whether a transaction
        is open.

        Returns that last answer.
        """
        server.sendall(message)
        while True:
            kind, answer = _message(server)
            if kind == b"Z":
                return answer
            client.sendall(answer)
            # COPY: the client sends until it is done, or fails.
            while kind == b"G":
                said, message = _message(client)
                server.sendall(message)
                if said in (b"c", b"f"):
                    break

    def _take(self) -> socket.socket:
        with self._lock:
            if self._free:
                return self._free.pop()
            self.servers += 1
            server = socket.socket(socket.AF_UNIX)
            self._opened.append(server)
        server.connect(self._socket)
        fields = b"\0".join(
            [b"user", self._user.encode(), b"database", self._name.encode(), b"", b""]
        )
        start = struct.pack("!I", 196608) + fields
        server.sendall(struct.pack("!I", len(start) + 4) + start)
        greeting = b""
        while True:
            kind, message = _message(server)
            # An invented process id, as poolers send to their clients.
            greeting += message if kind != b"K" else b"K" + struct.pack("!III", 12, 1, 1)
            if kind == b"Z":
                break
        self._greeting = self._greeting or greeting
        return server

    def _give_back(self, server: socket.socket) -> None:
        with self._lock:
            self._free.append(server)


@contextlib.contextmanager
def transaction_pooler(url: str, mode: str = "transaction") -> Iterator[Pooler]:
    """A pooler in front of `url` inside this context."""
    pooler = Pooler(url, mode)
    thread = threading.Thread(target=pooler.serve, daemon=True)
    thread.start()
    try:
        yield pooler
    finally:
        pooler.stop()
        thread.join(5)
        pooler.close()


def _error(text: str) -> bytes:
    fields = b"".join(k + v.encode() + b"\0" for k, v in ((b"S", "FATAL"), (b"M", text))) + b"\0"
    return b"E" + struct.pack("!I", len(fields) + 4) + fields


def _message(connection: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(connection, 5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + _exactly(connection, length - 4)


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        part = connection.recv(count - len(received))
        if not part:
            raise EOFError
        received += part
    return received
