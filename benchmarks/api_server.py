"""The sandbox for benchmarks: `api_server.py ROWS LATENCY_SECONDS REQUESTS_PER_MINUTE [PER_PAGE]`.

It must not be what is measured, so each record is rendered once and kept in memory: as syncs ask
for it before the first call, and with fewer parts when it is first asked for so. Prints a line of
JSON with its URL and the average size of a record in bytes, then answers each line of stdin with
one: `reset`, `stats` (calls since then, and when the first came), `edit N`.
"""

import json
import sys
import time
from collections.abc import Sequence

from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline.sandbox.records import LISTED


class RenderedStore(Store):
    """Records that nobody edited are served from memory, byte for byte as they would be made."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self._rendered: dict[tuple[int, frozenset[str]], bytes | None] = {}
        sizes = [len(self.body(id_, LISTED) or b"") for id_ in self.ids()]
        self.average_bytes = sum(sizes) / max(len(sizes), 1)

    def body(self, id_: int, include: Sequence[str], *, signed: bool = False) -> bytes | None:
        if signed or id_ in self._edited or id_ not in self._rows:
            return super().body(id_, include, signed=signed)
        asked = (id_, frozenset(include))
        if asked not in self._rendered:
            self._rendered[asked] = super().body(id_, include)
        return self._rendered[asked]


class Calls:
    """Counts them, and remembers when the first came."""

    def __init__(self) -> None:
        self.count, self.first = 0, 0.0

    def note(self, _: str) -> None:
        self.first = self.first or time.time()
        self.count += 1


def main() -> None:
    rows, latency, limit = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    # The figures are of a hundred a page, which accounts gave until June 2026.
    switches = Switches(max_per_page=int(sys.argv[4]) if len(sys.argv) > 4 else 100)
    store, calls = RenderedStore(rows), Calls()
    with SandboxServer(
        store, switches=switches, latency_ms=latency * 1000, requests_per_minute=limit
    ) as server:
        server.before_request = calls.note
        _say({"url": server.url, "average_bytes": store.average_bytes})
        for line in sys.stdin:
            what, *values = line.split()
            if what == "reset":
                calls = Calls()
                server.before_request = calls.note
            elif what == "edit":
                now = time.monotonic_ns()
                for id_ in store.ids()[: int(values[0])]:
                    store.edit(id_, {"subject": f"Changed at {now}"})
            _say({"calls": calls.count, "first": calls.first})


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
