"""A transaction pooler for PostgreSQL, as small as it can be: each transaction of a client goes to
the server connection that was free last, as with PgBouncer's `pool_mode = transaction`.

It speaks the simple query protocol over TCP, without passwords or TLS, which is what psycopg2 needs
when the server trusts it.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

_ASKS_FOR_ENCRYPTION = {80877103, 80877104}


class Pooler:
    """Serves the database of `url`, whose server is on a Unix socket."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._user, self._name = parts.username or "", parts.path.removeprefix("/")
        self._free: list[socket.socket] = []
        self._lock = threading.Lock()
        self._greeting = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"postgresql://{self._user}@127.0.0.1:{port}/{self._name}"
        self.servers = 0

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._follow, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for server in self._free:
            server.close()

    def _follow(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError):
            while True:
                (length,) = struct.unpack("!I", _exactly(client, 4))
                start = _exactly(client, length - 4)
                if struct.unpack("!I", start[:4])[0] not in _ASKS_FOR_ENCRYPTION:
                    break
                client.sendall(b"N")
            self._give_back(self._take())
            client.sendall(self._greeting)
            server: socket.socket | None = None
            while True:
                kind, message = _message(client)
                if kind == b"X":
                    break
                server = server or self._take()
                server.sendall(message)
                while True:
                    kind, answer = _message(server)
                    client.sendall(answer)
                    # COPY: the client has the word until it is done, or fails.
                    while kind == b"G":
                        said, message = _message(client)
                        server.sendall(message)
                        if said in (b"c", b"f"):
                            break
                    if kind == b"Z":
                        break
                if answer.endswith(b"I"):
                    self._give_back(server)
                    server = None
            if server is not None:
                server.close()

    def _take(self) -> socket.socket:
        with self._lock:
            if self._free:
                return self._free.pop()
            self.servers += 1
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._socket)
        fields = b"\0".join(
            [b"user", self._user.encode(), b"database", self._name.encode(), b"", b""]
        )
        start = struct.pack("!I", 196608) + fields
        server.sendall(struct.pack("!I", len(start) + 4) + start)
        greeting = b""
        while True:
            kind, message = _message(server)
            greeting += message
            if kind == b"Z":
                break
        self._greeting = self._greeting or greeting
        return server

    def _give_back(self, server: socket.socket) -> None:
        with self._lock:
            self._free.append(server)


@contextlib.contextmanager
def transaction_pooler(url: str) -> Iterator[Pooler]:
    """A pooler in front of `url` while inside."""
    pooler = Pooler(url)
    thread = threading.Thread(target=pooler.serve, daemon=True)
    thread.start()
    try:
        yield pooler
    finally:
        pooler.close()
        thread.join(5)


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
