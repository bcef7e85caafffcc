"""What the charts need: lengths in percent, links and texts.

templates/macros.html draws them as SVG, without script and without styles that the content policy
would have to allow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from urllib.parse import urlencode

from rms_pipeline.insight.decisions import MonthDecided
from rms_pipeline.insight.parties import Month
from rms_pipeline.mirror.overview import WEEKS, StatusCount, WebhookDay, WeekCount
from rms_pipeline.mirror.statuses import CONFIRMED, LOST, OPEN, Phase
from rms_pipeline.status_chart import OTHER_COLOUR, status_colour
from rms_pipeline.web.formatting import (
    Clock,
    long_month,
    month,
    number,
    short_money,
    some,
    weekday,
    weekday_and_day,
    whole_money,
)


@dataclass(frozen=True, slots=True)
class Bar:
    """The bar of one status. `width` is in percent of the longest bar."""

    status: str
    colour: str
    width: float
    opportunities: int
    share: float
    total_value: Decimal
    href: str


@dataclass(slots=True)
class Column:
    """One column. `parts` are (class, bottom, height in percent), from bottom to top."""

    label: str
    title: str
    href: str | None = None
    parts: list[tuple[str, float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Columns:
    """A row of columns. `top` is the value of the full height."""

    columns: list[Column]
    top: str
    empty: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice of a pie: its outline as an SVG path, and the place and the side of its label."""

    bar: Bar
    path: str
    label: str
    x: float
    y: float
    anchor: str


def status_bars(
    statuses: Sequence[StatusCount], colours: Mapping[str, str] | None = None
) -> list[Bar]:
    """One bar for each status, in the given order. `colours` are those of the table `statuses`."""
    most = max((s.opportunities for s in statuses), default=0)
    total = sum(s.opportunities for s in statuses)
    return [
        Bar(
            s.status,
            status_colour(s.status, colours),
            round(100 * s.opportunities / most, 2),
            s.opportunities,
            100 * s.opportunities / total,
            s.total_value,
            f"/opportunities?{urlencode({'status': s.status})}",
        )
        for s in statuses
        if s.opportunities
    ]


# Of the drawing: its width and height, and the radius of the pie in its middle.
PIE_WIDTH, PIE_HEIGHT, _RADIUS = 440, 250, 92
_MOST_SLICES, _LEAST_SHARE, _LABEL_HEIGHT, _LONGEST_LABEL = 10, 3.0, 17, 16


def pie(bars: Sequence[Bar]) -> list[Slice]:
    """The same as slices, clockwise from the top. Slices after the first `_MOST_SLICES` are
    combined. Thin slices have no label. The table below the pie names all of them."""
    shown = list(bars)
    if len(bars) > _MOST_SLICES:
        rest = bars[_MOST_SLICES - 1 :]
        shown = [
            *bars[: _MOST_SLICES - 1],
            Bar(
                some(len(rest), "other", "others"),
                OTHER_COLOUR,
                0,
                sum(b.opportunities for b in rest),
                sum(b.share for b in rest),
                sum((b.total_value for b in rest), Decimal(0)),
                "/opportunities",
            ),
        ]
    slices, begun = [], 0.0
    for bar in shown:
        middle = begun + bar.share / 2
        x, y = _on_circle(middle, _RADIUS + 12)
        anchor = "start" if x >= PIE_WIDTH / 2 else "end"
        name = bar.status
        if len(name) > _LONGEST_LABEL:
            name = f"{name[: _LONGEST_LABEL - 1].rstrip()}…"
        label = f"{name} {bar.share:.0f} %" if bar.share >= _LEAST_SHARE else ""
        slices.append(Slice(bar, _piece(begun, bar.share), label, round(x, 1), y, anchor))
        begun += bar.share
    return [*_apart([s for s in slices if s.label]), *(s for s in slices if not s.label)]


def _apart(labelled: list[Slice]) -> list[Slice]:
    """Moves labels so that none covers the one above it on its side, and none is outside the
    drawing."""
    placed = []
    for side in ("start", "end"):
        column = sorted((s for s in labelled if s.anchor == side), key=lambda s: s.y)
        lowest = PIE_HEIGHT - 8.0 - _LABEL_HEIGHT * (len(column) - 1)
        above = -float("inf")
        for each in column:
            y = max(min(each.y, lowest), above + _LABEL_HEIGHT, 8.0)
            placed.append(replace(each, y=round(y, 1)))
            above, lowest = y, lowest + _LABEL_HEIGHT
    return placed


def _on_circle(share: float, radius: float) -> tuple[float, float]:
    """The point at this percentage of the circle, clockwise from the top."""
    angle = 2 * math.pi * share / 100
    return PIE_WIDTH / 2 + radius * math.sin(angle), PIE_HEIGHT / 2 - radius * math.cos(angle)


def _piece(begun: float, share: float) -> str:
    # An arc that ends where it begins is none: a whole circle is drawn as two halves.
    parts = [(begun, share)] if share < 99.99 else [(begun, 50.0), (begun + 50, 50.0)]
    drawn = []
    for first, length in parts:
        (x, y), (to_x, to_y) = _on_circle(first, _RADIUS), _on_circle(first + length, _RADIUS)
        drawn.append(
            f"M{PIE_WIDTH / 2:g} {PIE_HEIGHT / 2:g}L{x:.2f} {y:.2f}"
            f"A{_RADIUS} {_RADIUS} 0 {int(length > 50)} 1 {to_x:.2f} {to_y:.2f}Z"
        )
    return "".join(drawn)


def week_columns(
    weeks: Sequence[WeekCount], first: date, clock: Clock, phases: Mapping[str, Phase]
) -> Columns:
    """Value by week from the Monday `first` on: confirmed below undecided. Lost ones are left out.
    A status that is not in `phases` is undecided."""
    confirmed: dict[date, Decimal] = {}
    undecided: dict[date, Decimal] = {}
    counts: dict[date, int] = {}
    for w in weeks:
        phase = phases.get(w.status, OPEN)
        if phase != LOST:
            kind = confirmed if phase == CONFIRMED else undecided
            kind[w.week] = kind.get(w.week, Decimal(0)) + max(w.total_value, Decimal(0))
            counts[w.week] = counts.get(w.week, 0) + w.opportunities
    mondays = [first + timedelta(weeks=i) for i in range(WEEKS)]
    nothing = Decimal(0)
    top = max((confirmed.get(m, nothing) + undecided.get(m, nothing) for m in mondays), default=0)
    columns = []
    for monday in mondays:
        sunday = monday + timedelta(days=6)
        sure, open_ = confirmed.get(monday, nothing), undecided.get(monday, nothing)
        query = {
            "status": "is:open",
            "from": monday.isoformat(),
            "to": sunday.isoformat(),
            "sort": "starts",
        }
        column = Column(
            # A month's name where it begins; 26 dates would not fit on a phone.
            month(sunday) if sunday.day <= 7 else "",
            f"Week of {clock.day(monday)}: {whole_money(sure)} confirmed, {whole_money(open_)} "
            f"undecided, {some(counts.get(monday, 0), 'opportunity', 'opportunities')}",
            f"/opportunities?{urlencode(query)}",
        )
        _stack(column, [("confirmed", sure), ("undecided", open_)], top)
        columns.append(column)
    return Columns(columns, short_money(Decimal(top)), not top)


def month_columns(months: Sequence[Month]) -> Columns:
    """Value by month: confirmed below undecided. The text has what was confirmed in the year
    before."""
    nothing = Decimal(0)
    values = [(m, max(m.confirmed.value, nothing), max(m.undecided.value, nothing)) for m in months]
    top = max((sure + open_ for _, sure, open_ in values), default=nothing)
    columns = []
    for m, sure, open_ in values:
        column = Column(
            month(m.month),
            f"{long_month(m.month)}: {whole_money(sure)} confirmed, {whole_money(open_)} "
            f"undecided, {whole_money(m.year_before.value)} confirmed the year before",
        )
        _stack(column, [("confirmed", sure), ("undecided", open_)], top)
        columns.append(column)
    return Columns(columns, short_money(top), not top)


def decision_columns(months: Sequence[MonthDecided], owner_id: int | None) -> Columns:
    """Decisions by month: won below lost. The text has those of the year before. `owner_id` is the
    owner, None for all."""
    whose = "" if owner_id is None else f"?owner={owner_id}"
    top = max((m.decided.won + m.decided.lost for m in months), default=0)
    columns = []
    for m in months:
        column = Column(
            month(m.month),
            f"{long_month(m.month)}: {number(m.decided.won)} won, {number(m.decided.lost)} lost; "
            f"the year before {number(m.year_before.won)} won, {number(m.year_before.lost)} lost",
            f"/won-and-lost/{m.month:%Y-%m}{whose}" if m.decided.won or m.decided.lost else None,
        )
        _stack(column, [("confirmed", m.decided.won), ("dead", m.decided.lost)], top)
        columns.append(column)
    return Columns(columns, number(top), not top)


def webhook_columns(days: Sequence[WebhookDay]) -> Columns:
    """Webhooks by day: settled, then waiting, then dead letters."""
    top = max((d.received for d in days), default=0)
    columns = []
    for d in days:
        waiting = d.received - d.settled - d.dead
        column = Column(
            weekday(d.day),
            f"{weekday_and_day(d.day)}: {some(d.received, 'webhook')}, {number(d.settled)} "
            f"settled, {number(waiting)} waiting, {some(d.dead, 'dead letter')}",
        )
        parts = [("settled", d.settled), ("waiting", waiting), ("dead", d.dead)]
        _stack(column, parts, top)
        columns.append(column)
    return Columns(columns, number(top), not top)


def _stack(
    column: Column,
    parts: Sequence[tuple[str, Decimal]] | Sequence[tuple[str, int]],
    top: Decimal | int,
) -> None:
    bottom = 0.0
    for name, value in parts:
        if value and top:
            height = float(100 * value / top)
            column.parts.append((name, round(bottom, 2), round(height, 2)))
            bottom += height
