"""Downloads of lists: what all have in common, and CSV. `web.workbooks` has those for Excel.

Texts stay texts: a spreadsheet does not run them as formulas, and does not change them if the
format prevents it. Times are in the company's time zone.
"""

import csv
import io
import itertools
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rms_pipeline.mirror.browse import Listed, iterate_opportunities
from rms_pipeline.web.formatting import OPEN_ENDED
from rms_pipeline.web.list_address import COLUMNS, DEFAULT_COLUMNS, Asked
from rms_pipeline.web.reading import Reader
from rms_pipeline.web.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Cell:
    """A column of a file: its heading for programs and for people, and how it is read."""

    heading: str
    title: str
    read: Callable[[Listed], Any]


def _end(row: Listed, moment: datetime | None) -> datetime | str | None:
    return moment or (OPEN_ENDED if row.open_ended else None)


_ID = Cell("id", "Id", lambda o: o.id)
_NUMBER = Cell("number", "Number", lambda o: o.number)
_CELLS = {
    "name": Cell("name", "Opportunity", lambda o: o.name),
    "status": Cell("status", "Status", lambda o: o.status),
    "state": Cell("state", "State", lambda o: o.state),
    "customer": Cell("customer", "Customer", lambda o: o.customer),
    "venue": Cell("venue", "Venue", lambda o: o.venue),
    "owner": Cell("owner", "Owner", lambda o: o.owner),
    "starts": Cell("starts_at", "Starts", lambda o: o.starts_at),
    "ends": Cell("ends_at", "Ends", lambda o: _end(o, o.ends_at)),
    "out": Cell("goes_out", "Goes out", lambda o: o.goes_out),
    "back": Cell("comes_back", "Comes back", lambda o: _end(o, o.comes_back)),
    "confirmed": Cell("confirmed_at", "Confirmed", lambda o: o.confirmed_at),
    "created": Cell("created_at", "Created", lambda o: o.created_at),
    "tags": Cell("tags", "Tags", lambda o: ", ".join(o.tags or ())),
    "reference": Cell("reference", "Reference", lambda o: o.reference),
    "charge": Cell("charge_total", "Without tax", lambda o: o.charge_total),
    "profit": Cell("profit", "Profit", lambda o: o.profit),
    "value": Cell("total_value", "With tax", lambda o: o.total_value),
    "updated": Cell("updated_at", "Updated", lambda o: o.updated_at),
}
assert set(_CELLS) == set(COLUMNS)
# What a file had before columns could be chosen, and has where none are.
_OF_ALL_FILES = (
    *("name", "status", "starts", "ends", "customer", "venue", "owner"),
    *("charge", "value", "updated"),
)


def cells_of(asked: Asked) -> list[Cell]:
    """The columns of a file for this list."""
    chosen = _OF_ALL_FILES if asked.columns == DEFAULT_COLUMNS else asked.columns
    return [_ID, _NUMBER, *(_CELLS[name] for name in chosen)]


class Download(StreamingResponse):
    """`first`, then the rest of `parts`. Closes `parts`, and so releases what it holds, even if the
    browser disconnects."""

    def __init__(
        self, first: bytes, parts: Generator[bytes, None, None], kind: str, name: str
    ) -> None:
        super().__init__(
            itertools.chain([first], parts),
            media_type=kind,
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._parts.close()


def as_csv(reader: Reader, asked: Asked) -> Generator[bytes, None, None]:
    """Parts of a CSV file, in UTF-8 with its mark. Texts are quoted, numbers are not. Raises
    Refusal (503) if too many files are being written."""
    return written_ahead(_csv_parts(reader, asked))


def _csv_parts(reader: Reader, asked: Asked) -> Generator[bytes, None, None]:
    cells = cells_of(asked)
    write = _moments(asked.criteria.time_zone)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    buffer.write("\ufeff")
    writer.writerow([cell.heading for cell in cells])
    # Programs that respect quotes read a quoted value as text, even if it looks like a number.
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC)
    with a_turn(), all_rows(reader, asked) as rows:
        for row in rows:
            writer.writerow([_in_csv(cell.read(row), write) for cell in cells])
            if buffer.tell() > 64_000:
                yield buffer.getvalue().encode()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue().encode()


# Each of them holds a connection, and pages need the others.
_MOST_AT_ONCE = 3
_PATIENCE = 10.0
_turns = threading.BoundedSemaphore(_MOST_AT_ONCE)


@contextmanager
def a_turn() -> Iterator[None]:
    """Waits until fewer than `_MOST_AT_ONCE` files are read from the database. Raises Refusal
    (503) after `_PATIENCE` seconds."""
    if not _turns.acquire(timeout=_PATIENCE):
        raise Refusal(
            503,
            "Other long files are being written. Try again in a minute.",
            headers={"Retry-After": "60"},
        )
    try:
        yield
    finally:
        _turns.release()


# So much of the disk of temporary files is left to others, of a small disk a part: PostgreSQL may
# have its tables there.
_LEFT_BYTES, _LEFT_PART = 256 * 2**20, 20


def _demand_room() -> None:
    """Raises Refusal (507) if the disk of temporary files is nearly full."""
    disk = shutil.disk_usage(tempfile.gettempdir())
    if disk.free < min(_LEFT_BYTES, disk.total // _LEFT_PART):
        raise Refusal(
            507,
            "The disk for temporary files is nearly full, so this file was not written. Choose a "
            "filter, so that the list is shorter, or try again when other downloads have ended. "
            f"Who runs the service finds that disk at {tempfile.gettempdir()}.",
        )


@contextmanager
def all_rows(reader: Reader, asked: Asked) -> Iterator[Iterator[Listed]]:
    """All rows of the list. Who leaves before the end leaves nothing open on the connection, which
    somebody else gets next."""
    with (
        reader.session() as connection,
        closing(iterate_opportunities(connection, asked.criteria)) as rows,
    ):
        yield rows


def written_ahead(parts: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """The same bytes. A thread reads `parts` without a pause and closes it, and a file without a
    name holds what the caller has not yet taken.

    So whatever `parts` holds, a transaction above all, is free once it is read. A browser on a slow
    line takes minutes for a long list, and a transaction that waits for it would keep the whole
    database from cleaning up. Once this generator is closed, `parts` is read no further.
    """
    ahead = _Ahead(parts)
    try:
        yield from ahead.taken()
    finally:
        ahead.leave()


class _Ahead:
    """The file between the thread that writes and the one that takes."""

    def __init__(self, parts: Generator[bytes, None, None]) -> None:
        self._parts = parts
        # Whichever of the two threads ends last closes it.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        # Or the collector of garbage, if nobody closes the generator. It might meet the file first,
        # and warn.
        weakref.finalize(self, self._file.close)
        self._changed = threading.Condition()
        self._length = 0
        self._is_over = self._is_left = False
        self._error: BaseException | None = None
        threading.Thread(target=self._write, name="download", daemon=True).start()

    def _write(self) -> None:
        error: BaseException | None = None
        try:
            with closing(self._parts):
                for part in self._parts:
                    if self._is_left:
                        break
                    _demand_room()
                    self._file.write(part)
                    self._file.flush()
                    with self._changed:
                        self._length += len(part)
                        self._changed.notify()
        except BaseException as raised:
            error = raised
        with self._changed:
            self._is_over, self._error = True, error
            if self._is_left:
                self._file.close()
            self._changed.notify()

    def taken(self) -> Generator[bytes, None, None]:
        """What was written, as it comes. Raises what `parts` raised, after all that it gave."""
        at = 0
        while True:
            with self._changed:
                while self._length == at and not self._is_over:
                    self._changed.wait()
                length, error = self._length, self._error
            if at < length:
                # Not by the position in the file, at which the other thread writes.
                part = os.pread(self._file.fileno(), min(64_000, length - at), at)
                at += len(part)
                yield part
            elif error is not None:
                raise error
            else:
                return

    def leave(self) -> None:
        """Nothing is taken any more."""
        with self._changed:
            self._is_left = True
            if self._is_over:
                self._file.close()


# The wide ones are of Chinese and Japanese keyboards, and spreadsheets there take them too.
_BEGINS_A_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
# Where semicolons part the cells (most of Europe), quotes around a cell of ours are not seen, and
# what stands behind a semicolon or on a new line is a cell of its own.
_FORMULA_WITHIN = re.compile(r"([;\r\n][\s\"]*)(?=[=+\-@＝＋－＠])")


def _in_csv(value: Any, write: Callable[[datetime], str]) -> Any:
    if isinstance(value, datetime):
        return write(value)
    if not isinstance(value, str):
        return "" if value is None else value
    # A spreadsheet would run what begins like a formula.
    harmless = _FORMULA_WITHIN.sub(r"\1'", value)
    return f"'{harmless}" if harmless.startswith(_BEGINS_A_FORMULA) else harmless


def _moments(time_zone: str) -> Callable[[datetime], str]:
    """How a file writes a time: in the company's time zone, as spreadsheets read it. UTC times say
    so."""
    zone = ZoneInfo(time_zone)

    def local(moment: datetime) -> str:
        # Not strftime, which writes the year 1 as 1.
        return local_time(moment, zone).isoformat(sep=" ")

    def utc(moment: datetime) -> str:
        return f"{local_time(moment, zone).isoformat()}Z"

    return utc if time_zone == "UTC" else local


def local_time(moment: datetime, zone: ZoneInfo) -> datetime:
    try:
        moment = moment.astimezone(zone)
    except OverflowError:
        moment = moment.astimezone(UTC)
    return moment.replace(tzinfo=None, microsecond=0)
