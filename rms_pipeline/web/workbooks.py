"""Workbooks of Excel: a list of opportunities, written as its rows are read.

A library makes the workbook: its sheets, formats, widths and filters. Of the sheet with the list it
makes the beginning and the end. The rows between them are written here, so that the download begins
with the first of them, whatever their number, and no more than a thousand are in memory.
"""

import io
import re
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from babel.numbers import get_currency_precision, get_currency_symbol
from xlsxwriter import Workbook  # type: ignore[import-untyped]
from xlsxwriter.utility import xl_col_to_name  # type: ignore[import-untyped]

from rms_pipeline.mirror.browse import Listed, count_listed
from rms_pipeline.web.downloads import (
    Cell,
    a_turn,
    all_rows,
    cells_of,
    local_time,
    written_ahead,
)
from rms_pipeline.web.list_address import Asked
from rms_pipeline.web.reading import Reader
from rms_pipeline.web.refusals import Refusal

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
# Of a sheet, with its headings.
_MOST_ROWS = 1_048_576
_LONGEST_CELL = 32_767
_MOST_DIGITS = 15
# Excel has no time before that day, and counts a day too many until then.
_OLDEST, _DAY_ZERO = datetime(1900, 3, 1), datetime(1899, 12, 30)
_SHEET, _KINDS_OF_FILES = "xl/worksheets/sheet1.xml", "[Content_Types].xml"
_PART_BYTES = 64_000


def as_xlsx(
    reader: Reader, asked: Asked, told: Sequence[tuple[str, str]], currency: str | None = None
) -> Generator[bytes, None, None]:
    """Parts of a workbook: the list, with a fixed heading and a filter for each column, and a sheet
    that describes it (`told`: names and values).

    Raises Refusal: 422 if a sheet has no room for the list, 503 if too many files are being
    written, 507 if the disk of temporary files is nearly full.
    """
    return written_ahead(_parts(reader, asked, told, currency))


def _parts(
    reader: Reader, asked: Asked, told: Sequence[tuple[str, str]], currency: str | None
) -> Generator[bytes, None, None]:
    cells = cells_of(asked)
    made = _Made(cells, currency)
    rows = _Rows(cells, made, ZoneInfo(asked.criteria.time_zone))
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as file:
        file.writestr(_KINDS_OF_FILES, made.of(0, told)[_KINDS_OF_FILES])
        with file.open(_SHEET, "w") as sheet, a_turn(), _all_rows(reader, asked) as found:
            sheet.write(made.beginning)
            lines: list[str] = []
            for row in found:
                lines.append(rows.line(row))
                if len(lines) == 100:
                    sheet.write("".join(lines).encode())
                    lines.clear()
                    if len(pipe) > _PART_BYTES:
                        yield pipe.taken()
            sheet.write("".join(lines).encode())
            if rows.shortened:
                of = f"A cell holds {_LONGEST_CELL:,} letters at most."
                told = [*told, ("Shortened texts", f"{rows.shortened:,}. {of}")]
            others = made.of(rows.last, told)
            sheet.write(_after_the_rows(others.pop(_SHEET)))
        for name, content in others.items():
            if name != _KINDS_OF_FILES:
                file.writestr(name, content)
    yield pipe.taken()


def _all_rows(reader: Reader, asked: Asked) -> AbstractContextManager[Iterator[Listed]]:
    """All rows of the list. Raises Refusal (422) if they are more than a sheet holds."""
    most = _MOST_ROWS - 1
    with reader.session() as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM (SELECT FROM opportunities LIMIT %s) counted", (most + 1,)
            )
            (there,) = cursor.fetchone() or (0,)
        connection.commit()
        if there > most and count_listed(connection, asked.criteria, most)[0] > most:
            _refuse()
    return all_rows(reader, asked)


def _refuse() -> None:
    raise Refusal(
        422,
        f"This list has more than {_MOST_ROWS - 1:,} opportunities, and a sheet of Excel holds no "
        "more. Choose a filter, so that the list is shorter, or take the CSV, which holds all.",
    )


class _Pipe(io.RawIOBase):
    """A file that is written from its beginning to its end, and read as it grows."""

    def __init__(self) -> None:
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._held += part
        return len(part)

    def __len__(self) -> int:
        return len(self._held)

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        part = bytes(self._held)
        self._held.clear()
        return part


class _Made:
    """What the library makes of the workbook.

    `beginning` is the sheet's text up to its rows. `time` and `money` are the numbers of formats.
    """

    def __init__(self, cells: Sequence[Cell], currency: str | None) -> None:
        self._cells, self._currency = cells, currency
        sheet = self.of(0, ())[_SHEET].decode()
        beginning, _, rest = sheet.partition("</row>")
        # How far the sheet goes is not known yet, and need not be there.
        self.beginning = re.sub(r"<dimension [^>]*/>", "", f"{beginning}</row>").encode()
        self.time, self.money = re.findall(r' s="([0-9]+)"', rest)

    def of(self, last: int, told: Sequence[tuple[str, str]]) -> dict[str, bytes]:
        """Return the files of a workbook whose list ends in row `last`. In place of its rows it has
        one with a cell of each format.
        """
        made = io.BytesIO()
        # Texts in the sheet itself, as they are between its rows.
        with Workbook(made, {"constant_memory": True}) as book:
            bold = book.add_format({"bold": True})
            time = book.add_format({"num_format": "yyyy-mm-dd hh:mm"})
            money = book.add_format({"num_format": _money_format(self._currency)})
            sheet = book.add_worksheet("Opportunities")
            for place, cell in enumerate(self._cells):
                sheet.write_string(0, place, cell.title, bold)
                wide = cell.heading in ("name", "customer")
                sheet.set_column(place, place, 32 if wide else 16)
            sheet.freeze_panes(1, 3)
            sheet.autofilter(0, 0, last, len(self._cells) - 1)
            # The library leaves out formats that no cell has.
            sheet.write_number(1, 0, 0, time)
            sheet.write_number(1, 1, 0, money)
            about = book.add_worksheet("About")
            about.set_column(0, 0, 20)
            about.set_column(1, 1, 60)
            for line, (name, value) in enumerate(told):
                about.write_string(line, 0, name, bold)
                about.write_string(line, 1, value[:_LONGEST_CELL])
        with zipfile.ZipFile(made) as files:
            return {name: files.read(name) for name in files.namelist()}


def _after_the_rows(sheet: bytes) -> bytes:
    return sheet[sheet.rindex(b"</sheetData>") :]


class _Rows:
    """The rows of the list in the sheet. `last` is the number of the last one, and of how many
    texts a part was left out `shortened` says."""

    def __init__(self, cells: Sequence[Cell], made: _Made, zone: ZoneInfo) -> None:
        self.last = self.shortened = 0
        self._zone = zone
        self._formats = made
        self._columns: list[tuple[str, Callable[[Listed], Any]]] = [
            (xl_col_to_name(place), cell.read) for place, cell in enumerate(cells)
        ]

    def line(self, row: Listed) -> str:
        """Return the next row as the sheet has it."""
        self.last += 1
        number = self.last + 1
        if number > _MOST_ROWS:
            _refuse()
        cells = "".join(
            self._cell(f'<c r="{column}{number}"', value)
            for column, read in self._columns
            if (value := read(row)) is not None and value != ""
        )
        return f'<row r="{number}">{cells}</row>'

    def _cell(self, begun: str, value: Any) -> str:
        if isinstance(value, str):
            return f"{begun}{self._text(value)}"
        if isinstance(value, datetime):
            local = local_time(value, self._zone)
            if local < _OLDEST:
                return f"{begun}{self._text(local.isoformat(sep=' '))}"
            days = (local - _DAY_ZERO) / timedelta(days=1)
            return f'{begun} s="{self._formats.time}"><v>{days!r}</v></c>'
        # With more digits it stays whole as a text.
        if not _is_exact(value):
            return f"{begun}{self._text(str(value))}"
        if isinstance(value, Decimal):
            return f'{begun} s="{self._formats.money}"><v>{float(value)!r}</v></c>'
        return f"{begun}><v>{value}</v></c>"

    def _text(self, text: str) -> str:
        if _NEEDS_CARE.search(text):
            # XML does not allow control characters. Excel would call the file broken.
            text = _NOT_IN_XML.sub("\ufffd", text.replace("\r\n", "\n"))
            text = _as_xml(self._short(text))
        # A character has two units at most.
        elif len(text) > _LONGEST_CELL // 2:
            text = self._short(text)
        # Most texts have no space at either end, and a sheet has millions of them.
        kept = ' xml:space="preserve"' if text != text.strip() else ""
        return f' t="inlineStr"><is><t{kept}>{text}</t></is></c>'

    def _short(self, text: str) -> str:
        """Return as much of `text` as a cell holds. Excel counts as UTF-16 does, in which an emoji
        has two units.
        """
        kept = text.encode("utf-16-le")[: 2 * _LONGEST_CELL].decode("utf-16-le", errors="ignore")
        self.shortened += kept != text
        return kept


_NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")
_NEEDS_CARE = re.compile("[\x00-\x1f\ufffe\uffff&<>]|_x")
# What Excel would read as a character.
_LIKE_A_CHARACTER = re.compile("_(?=x[0-9a-fA-F]{4}_)")


def _as_xml(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LIKE_A_CHARACTER.sub("_x005F_", text)


def _is_exact(number: int | Decimal) -> bool:
    """Return whether Excel keeps all digits of the number: it has fifteen."""
    exact = Decimal(number)
    digits = len(exact.normalize().as_tuple().digits) if exact.is_finite() else 99
    return digits <= _MOST_DIGITS and abs(exact) < 10**_MOST_DIGITS


def _money_format(currency: str | None) -> str:
    if currency is None:
        return "#,##0.00"
    digits = get_currency_precision(currency)
    fraction = f".{'0' * digits}" if digits else ""
    return f"[${get_currency_symbol(currency, locale='en')}] #,##0{fraction}"
