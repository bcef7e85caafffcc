"""An API that lies, written apart from the product and from the sandbox: what is asked for is
filtered, ordered, counted and written here anew, so that nobody's mistake is shared.

A `World` holds the records of one collection and changes them. `LIES` are the ways in which its
lists and single records are not what they should be.
"""

import contextlib
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Record = dict[str, Any]
Query = list[tuple[str, str]]
Said = tuple[str, Any]

_ZONES = {
    "utc": UTC,
    "east": timezone(timedelta(hours=5, minutes=30)),
    "west": timezone(timedelta(hours=-8)),
}
_LOST = 60
_RANGE = re.compile(r"q\[(\w+?)_(gt|lt|gteq|lteq|null|not_null)\]")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda a, b: a > b,
    "lt": lambda a, b: a < b,
    "gteq": lambda a, b: a >= b,
    "lteq": lambda a, b: a <= b,
}
# Answers that are none: status, body, header.
_NOISE: dict[str, tuple[int, bytes, tuple[str, str] | None]] = {
    "500": (500, b'{"errors":["x"]}', None),
    "404": (404, b'{"errors":["Not found"]}', None),
    "401": (401, b'{"errors":["no"]}', None),
    "a page of HTML": (200, b"<html><body>Hi</body></html>", ("Content-Type", "text/html")),
    "an error with 200": (200, b'{"errors":["Try later"]}', None),
    "slow down": (429, b'{"errors":["slow"]}', None),
    "a day long ago": (429, b"{}", ("Retry-After", "Wed, 25 Nov 2020 10:00:00 GMT")),
    "below nothing": (429, b"{}", ("Retry-After", "-7")),
    "a fraction": (429, b"{}", ("Retry-After", "0.001")),
    "half an answer": (200, b'{"opportunities":[{"id":1', None),
    "no gzip": (200, b"\x1f\x8b\x08\x00garbage", ("Content-Encoding", "gzip")),
    "502": (502, b"<html>bad</html>", None),
    "null": (200, b"null", None),
    "a list": (200, b"[]", None),
    "a mark only": (200, b"\xef\xbb\xbf", None),
    "elsewhere": (302, b"", ("Location", "http://127.0.0.1:9/else")),
}
_DROPPED = "dropped"


def moment_of(value: str | None) -> datetime | None:
    """A time as it is written, UTC where it does not say."""
    if not value:
        return None
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass
class World:
    """The records of one collection. `lies` are told in lists and single records from now on.

    `moving`: it changes while it is read. `silent` are ids that were changed without a new
    `updated_at` since they were last taken for seen.
    """

    name: str
    single: str
    dice: random.Random
    most: int
    zone: str
    next_id: int
    records: dict[int, Record] = field(default_factory=dict)
    gone: dict[int, Record] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    lies: dict[str, Any] = field(default_factory=dict)
    moving: bool = False
    asked: int = 0
    _history: list[dict[int, Record]] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def create(self) -> None:
        with self._lock:
            id_, dice = self.next_id, self.dice
            self.next_id += dice.choice([1, 1, 1, 7])
            starts, ends = self._dates()
            now = self._written(datetime.now(UTC))
            self.records[id_] = {
                "id": id_,
                "subject": f"S{id_}",
                "name": f"N{id_}",
                "active": dice.random() < 0.7,
                "status": dice.choice([0, 5, _LOST]),
                "status_name": "Open",
                "starts_at": starts,
                "ends_at": ends,
                "created_at": now,
                "updated_at": now,
            }

    def edit(self) -> None:
        """Mostly with a new time, now and then without."""
        with self._lock:
            if not self.records:
                return
            dice = self.dice
            id_ = dice.choice(sorted(self.records))
            record = dict(self.records[id_])
            record["subject"] = record["name"] = f"E{dice.random()}"
            if dice.random() < 0.2:
                record["starts_at"], record["ends_at"] = self._dates()
            if dice.random() < 0.75:
                record["updated_at"] = self._written(datetime.now(UTC))
                self.silent.discard(id_)
            else:
                past = self._written(datetime.now(UTC) - timedelta(days=400))
                record["updated_at"] = dice.choice([record["updated_at"], None, past])
                self.silent.add(id_)
            self.records[id_] = record

    def delete(self) -> None:
        with self._lock:
            if self.records:
                id_ = self.dice.choice(sorted(self.records))
                self.gone[id_] = self.records.pop(id_)

    def bring_back(self) -> None:
        """What was deleted, with the time it had."""
        with self._lock:
            if self.gone:
                id_, record = self.gone.popitem()
                self.records[id_] = record
                self.silent.add(id_)

    def change(self) -> None:
        self.dice.choice([self.create, self.edit, self.delete, self.bring_back])()

    def answer(self, path: str, query: Query) -> Said:
        """The kind of an answer, "" for a good one, and its body."""
        with self._lock:
            self.asked += 1
            if self.moving and self.dice.random() < 0.3:
                self.dice.choice([self.create, self.edit, self.edit, self.delete])()
            self._history = [*self._history[-40:], dict(self.records)]
            if self.dice.random() < self.lies.get("noise", 0):
                return self.dice.choice([*_NOISE, _DROPPED]), None
            if match := re.fullmatch(rf"/{self.name}/(-?\d+)", path):
                return self._record(int(match[1]))
            if path != f"/{self.name}":
                return "404", None
            return "", self._list(query)

    def _record(self, id_: int) -> Said:
        every = self.lies.get("not found singly")
        if id_ not in self.records or (every and id_ % every == 0):
            return "404", None
        return "", {self.single: self.records[id_]}

    def _list(self, query: Query) -> Any:
        lies, dice = self.lies, self.dice
        records = self._history[max(0, len(self._history) - 1 - lies.get("lag", 0))]
        every = lies.get("unlisted")
        found = [r for i, r in sorted(records.items()) if not (every and i % every == 0)]
        found = self._in_mode(found, query)
        for name, value in query:
            found = self._narrowed(found, name, value)
        ids = {int(value) for name, value in query if name == "q[id_in][]"}
        if ids and "id_in" not in self._ignored:
            found = [r for r in found if r["id"] in ids]
        found = self._in_order(found, query)
        if every := lies.get("listed twice"):
            found = [x for r in found for x in ([r, r] if r["id"] % every == 0 else [r])]
        total = len(found)
        if every := lies.get("counted and never sent"):
            found = [r for r in found if r["id"] % every]
        asked = dict(query)
        number, per_page = int(asked.get("page", 1)), int(asked.get("per_page", 20))
        size = lies.get("pages of one size") or min(per_page, self.most)
        start = (number - 1) * size - (lies.get("shifted pages", 0) if number > 1 else 0)
        page = found[max(start, 0) : max(start, 0) + size]
        if dice.random() < lies.get("the last one lacks", 0):
            page = page[:-1]
        if "counts end" in lies:
            total = min(total, lies["counts end"])
        if "counts are off" in lies and dice.random() < lies.get("now and then only", 1):
            total = max(0, total + lies["counts are off"])
        meta = {"total_row_count": total, "row_count": len(page), "page": number, "per_page": size}
        return {self.name: page, "meta": self._told(meta, per_page)}

    @property
    def _ignored(self) -> tuple[str, ...]:
        ignored: tuple[str, ...] = self.lies.get("ignored", ())
        return ignored

    def _in_mode(self, found: list[Record], query: Query) -> list[Record]:
        if "filtermode" in self._ignored:
            return found
        modes = {value for name, value in query if name in ("filtermode", "filtermode[]")}
        if "all" in modes:
            return found
        inactive = "inactive" in modes
        if self.name == "opportunities":
            return [r for r in found if (r["status"] == _LOST) == inactive]
        if self.name == "members":
            return [r for r in found if r["active"] != inactive]
        return found

    def _narrowed(self, found: list[Record], name: str, value: str) -> list[Record]:
        match = _RANGE.fullmatch(name)
        if match is None or {name, match[1], match[2]} & {*self._ignored}:
            return found
        field_, how = match[1], match[2]
        if field_ == "starts_at_or_ends_at":
            if "or" in self._ignored:
                return found
            return [r for r in found if not (r["starts_at"] and r["ends_at"])]
        if how in ("null", "not_null"):
            wanted = (how == "null") == (value in ("1", "true"))
            return [r for r in found if (not r.get(field_)) == wanted]
        compare = _COMPARE[how]
        if field_ == "id":
            return [r for r in found if compare(r["id"], int(value))]
        bound = moment_of(value)
        assert bound is not None
        times = [(r, moment_of(r.get(field_))) for r in found]
        if "whole days" in self.lies:
            zone = _ZONES[self.lies["whole days"]]
            day = bound.astimezone(zone).date()
            return [r for r, t in times if t and compare(t.astimezone(zone).date(), day)]
        return [r for r, t in times if t and compare(t, bound)]

    def _in_order(self, found: list[Record], query: Query) -> list[Record]:
        if "s" in self._ignored:
            return random.Random(7).sample(found, len(found))
        sorts = [value for name, value in query if name.startswith("q[s]")]
        if sorts and "updated_at" in sorts[0]:
            none = datetime.min.replace(tzinfo=UTC)
            return sorted(
                found, key=lambda r: moment_of(r["updated_at"]) or none, reverse="desc" in sorts[0]
            )
        return found

    def _told(self, meta: dict[str, int], per_page: int) -> dict[str, Any]:
        how = self.lies.get("meta")
        if how == "as asked for":
            return {**meta, "per_page": per_page}
        if how == "text":
            return {name: str(value) for name, value in meta.items()}
        if how == "no size":
            return {name: value for name, value in meta.items() if name != "per_page"}
        return meta

    def _dates(self) -> tuple[str | None, str | None]:
        dice = self.dice
        starts = datetime.now(UTC) + timedelta(days=dice.choice([-20, 0, 3, 100, 300, 900]))
        ends = starts + timedelta(days=2)
        kind = dice.random()
        return (
            None if kind < 0.15 else self._written(starts),
            None if kind < 0.1 or kind > 0.9 else self._written(ends),
        )

    def _written(self, moment: datetime) -> str:
        if self.zone == "bare":
            return moment.strftime("%Y-%m-%dT%H:%M:%S")
        if self.zone == "z":
            return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
        return moment.astimezone(_ZONES[self.zone]).isoformat()


def new_world(name: str, single: str, seed: int) -> World:
    dice = random.Random(seed)
    zone = dice.choice(["z", "z", "z", "bare", *_ZONES])
    world = World(
        name, single, dice, dice.choice([5, 10, 25]), zone, dice.choice([1, 1_000, 2**40])
    )
    for _ in range(dice.choice([0, 1, 4, 10, 11, 25, 40, 60])):
        world.create()
    return world


_IGNORED = (
    *("filtermode", "id_in", "gt", "lt", "q[id_gt]", "s", "or", "null", "updated_at", "ends_at"),
    *("starts_at", "created_at"),
)
LIES: dict[str, Callable[[random.Random], Any]] = {
    "lag": lambda dice: dice.choice([1, 3, 8]),
    "unlisted": lambda dice: dice.choice([5, 11]),
    "not found singly": lambda dice: dice.choice([1, 3, 7]),
    "listed twice": lambda dice: dice.choice([2, 3, 5, 9, 13]),
    "counts end": lambda dice: dice.choice([0, 1, 5, 10, 20]),
    "counts are off": lambda dice: dice.choice([-3, -1, 1, 4]),
    "now and then only": lambda dice: dice.choice([0.2, 0.5]),
    "pages of one size": lambda dice: dice.choice([1, 5, 10, 30]),
    "shifted pages": lambda dice: dice.choice([1, 3, -2]),
    "the last one lacks": lambda dice: dice.choice([0.05, 0.2]),
    "meta": lambda dice: dice.choice(["as asked for", "no size", "text"]),
    "noise": lambda _: 0.08,
    "counted and never sent": lambda dice: dice.choice([7, 13]),
    "whole days": lambda dice: dice.choice([*_ZONES]),
    "ignored": lambda dice: tuple(dice.sample(_IGNORED, dice.choice([1, 2]))),
}


def some_lies(dice: random.Random) -> dict[str, Any]:
    """None, or up to three at once."""
    return {
        name: LIES[name](dice) for name in dice.sample(sorted(LIES), dice.choice([0, 1, 1, 2, 3]))
    }


@contextlib.contextmanager
def served(world: World) -> Iterator[str]:
    """Its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            kind, body = world.answer(address.path, parse_qsl(address.query))
            if kind == _DROPPED:
                self.close_connection = True
                self.connection.close()
                return
            status, raw, header = _NOISE[kind] if kind else (200, json.dumps(body).encode(), None)
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(raw)),
                **dict([header] if header else []),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
