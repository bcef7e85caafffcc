"""`rms-pipeline status`: what the dashboard shows, in a terminal. It must not load Dagster."""

from rich.table import Table
from rich.text import Text

from rms_pipeline import settings as config
from rms_pipeline.console import announce_sandbox, out
from rms_pipeline.mirror.history import Sync

_COLOURS = {"completed": "green", "failed": "red", "running": "yellow"}


def status() -> None:
    """Show the last syncs, opportunities by status, completeness, and the queue of webhooks."""
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.overview import StatusCount, add_up, read_statuses
    from rms_pipeline.mirror.schema import demand_tables
    from rms_pipeline.mirror.sync_state import read_sync_state

    announce_sandbox(config.settings())
    with open_database(config.settings()).session() as connection:
        demand_tables(connection)
        state = read_sync_state(connection)
        as_of, statuses = read_statuses(connection)
    if not state.history:
        out.print("No sync has run yet: start with `rms-pipeline sync initial`.")
    else:
        out.print(_syncs(state.history))
    if state.running is not None and state.pace is not None:
        pace = state.pace
        left = "" if pace.seconds_left is None else f", about {pace.seconds_left:.0f} s left"
        words = f"{state.running.sync_type} is {pace.stage}: {pace.records:,} of "
        out.print(Text(f"{words}{pace.records_expected:,} records{left}", style="yellow"))

    def add(name: Text, *counts: StatusCount, is_last: bool = False) -> None:
        number, value = sum(c.opportunities for c in counts), add_up(c.total_value for c in counts)
        counted.add_row(name, f"{number:,}", f"{value:,.2f}", end_section=is_last)

    title = "Opportunities by status"
    if as_of is not None:
        title += f", counted {as_of:%Y-%m-%d %H:%M:%S} UTC"
    counted = Table(title=title, title_justify="left")
    counted.add_column("Status")
    counted.add_column("Opportunities", justify="right")
    counted.add_column("Total value", justify="right")
    for count in statuses:
        add(Text(count.status), count, is_last=count is statuses[-1])
    add(Text("Total", style="bold"), *statuses)
    out.print(counted)
    if state.certificate is not None:
        sentence = str(state.certificate["sentence"])
        out.print(Text(f"{sentence[:1].upper()}{sentence[1:]}"))
    out.print(f"Webhook events waiting: {state.queue.depth:,}, dead letters: {state.queue.dead:,}")


def _syncs(syncs: list[Sync]) -> Table:
    table = Table(title="Last syncs", title_justify="left")
    for heading in ("Sync", "Status", "Started (UTC)", "Synced", "Failed", "Error"):
        table.add_column(heading, overflow="fold")
    for s in syncs:
        table.add_row(
            # What others wrote is no markup of ours: brackets and :names: stay what they are.
            Text(s.sync_type),
            f"[{_COLOURS[s.status]}]{s.status}[/]",
            f"{s.started_at:%Y-%m-%d %H:%M:%S}",
            f"{s.records_synced:,}",
            f"{s.records_failed:,}",
            Text(s.error or ""),
        )
    return table
