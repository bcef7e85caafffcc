"""`rms-pipeline fields`: the account's custom fields, and columns for them."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from rms_pipeline import settings as config
from rms_pipeline.console import announce_sandbox, out, printable, table

if TYPE_CHECKING:
    from rms_pipeline.mirror.statements import Connection

fields_app = typer.Typer(
    invoke_without_command=True,
    help="List the custom fields of opportunities, with kind, share filled, distinct values and "
    "examples.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


@fields_app.callback()
def fields(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from rms_pipeline.collections.opportunities import OPPORTUNITIES
    from rms_pipeline.insight.fields import own_fields

    with _mirror() as connection:
        found = own_fields(connection, OPPORTUNITIES)
    if as_json:
        _print_json({"fields": [asdict(field) for field in found]})
        return
    if not found:
        out.print("No opportunity has a custom field.")
        return
    figures = ("Filled", "Distinct")
    headings = ("Key", "Kind", *figures, "Examples", "Column")
    shown = table("Custom fields of the account", headings, figures)
    for field in found:
        examples = "no record has it now" if field.vanished_at else ", ".join(field.examples)
        column = "" if field.column is None else f"{field.column} {field.column_kind}"
        # What others wrote is no markup of ours.
        shown.add_row(
            Text(_shown(field.key)),
            field.kind,
            f"{field.share:.1%}",
            f"{field.distinct:,}",
            Text(_shown(examples)),
            Text(column),
        )
    out.print(shown)


@fields_app.command()
def promote(
    field: Annotated[
        str,
        typer.Argument(
            metavar="KEY:KIND",
            help="The key of the field, and the kind of its column, such as risk_score:numeric.",
            show_default=False,
        ),
    ],
    column: Annotated[
        str | None,
        typer.Option("--as", help="Name of the column. Without it, the key is the name."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a field a typed column in opportunity_fields, filled from the stored records.

    Every sync and webhook keeps it up to date. A value that is not of this kind is empty there, and
    sync_faults names it. Kinds: text, numeric, bigint, boolean, date, timestamptz, time, bigint[]
    and text[]. Syncs wait while the column is filled, some seconds for 100,000 rows.
    """
    from rms_pipeline.collections.opportunities import OPPORTUNITIES
    from rms_pipeline.insight.fields import as_promoted, demand_field
    from rms_pipeline.mirror import promoted
    from rms_pipeline.mirror.merge import note_faults

    try:
        wanted = as_promoted(field, column)
    except promoted.PromotionError as error:
        raise typer.BadParameter(str(error)) from None
    with _mirror() as connection:
        demand_field(connection, OPPORTUNITIES, wanted.key)
        done, faults = promoted.promote(connection, OPPORTUNITIES, wanted)
        with connection.cursor() as cursor:
            note_faults(cursor, OPPORTUNITIES, f"promote {wanted}", faults)
    _search_them()
    if as_json:
        _print_json({"column": wanted.column, "kind": wanted.kind, "rows": done.rows,
                     "filled": done.filled, "failed": done.failed})  # fmt: skip
        return
    out.print(
        Text(
            f"opportunity_fields.{wanted.column} ({wanted.kind}) is filled in "
            f"{done.filled - done.failed:,} of {done.rows:,} rows."
        )
    )
    if done.failed:
        out.print(
            Text(
                f"{done.failed:,} values cannot be read as {wanted.kind}: SELECT * FROM sync_faults"
                f" WHERE field = '{_doubled(f'custom_fields.{wanted.key}')}'"
            )
        )


@fields_app.command()
def demote(
    key: Annotated[str, typer.Argument(help="The key of the field whose column is dropped.")],
) -> None:
    """Remove the column of a field. The field itself stays in custom_fields."""
    from rms_pipeline.collections.opportunities import OPPORTUNITIES
    from rms_pipeline.mirror import promoted

    with _mirror() as connection:
        gone = promoted.demote(connection, OPPORTUNITIES, key)
    _search_them()
    out.print(
        Text(
            f"opportunity_fields.{gone.column} was removed. {_shown(key)} is still in "
            "custom_fields."
        )
    )


@fields_app.command()
def label(
    key: Annotated[str, typer.Argument(help="The key of the field.")],
    labels: Annotated[
        list[str],
        typer.Argument(
            metavar="VALUE=LABEL...",
            help="Values with their meaning, such as 101=Website. VALUE= removes a meaning.",
        ),
    ],
) -> None:
    """Say what the values of a field mean, such as the ids of a list. The table custom_field_labels
    has the labels."""
    from rms_pipeline.collections.opportunities import OPPORTUNITIES
    from rms_pipeline.insight.fields import demand_field
    from rms_pipeline.mirror.custom_fields import set_labels

    given = {}
    for text in labels:
        value, equals, name = text.partition("=")
        if not equals or not value:
            raise typer.BadParameter(
                f"{text!r} is not of the form VALUE=LABEL. Example: 101=Website"
            )
        given[value] = name
    with _mirror() as connection:
        demand_field(connection, OPPORTUNITIES, key)
        set_labels(connection, OPPORTUNITIES, key, given)
    _search_them()
    out.print(Text(f"{len(given):,} values of {_shown(key)} are labelled."))


def _search_them() -> None:
    """Updates the search index: opportunities are found by fields with a column, and not by
    others."""
    from rms_pipeline.collections.opportunities import OPPORTUNITIES
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.redecode import reword

    reword(open_database(config.settings()), OPPORTUNITIES)


@contextmanager
def _mirror() -> Iterator["Connection"]:
    from rms_pipeline.mirror.embedded import open_database
    from rms_pipeline.mirror.schema import demand_tables

    announce_sandbox(config.settings())
    with open_database(config.settings()).session() as connection:
        demand_tables(connection)
        yield connection


def _print_json(told: object) -> None:
    from pydantic_core import to_jsonable_python

    json.dump(to_jsonable_python(told), sys.stdout)
    sys.stdout.write("\n")


def _shown(text: str) -> str:
    """The text in one line, without characters that would move a terminal's cursor."""
    return printable(text).replace("\n", "\ufffd")


def _doubled(text: str) -> str:
    return _shown(text).replace("'", "''")
