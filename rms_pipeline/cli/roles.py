"""`rms-pipeline roles`: SQL for roles that may only read."""

import sys
from typing import Annotated

import typer

from rms_pipeline import settings as config


def roles(
    with_money: Annotated[
        str | None, typer.Option(help="Another name for the reader that sees money.")
    ] = None,
    without_money: Annotated[
        str | None, typer.Option(help="Another name for the reader that sees none.")
    ] = None,
) -> None:
    """Print SQL for two roles that read views alone: one sees money, one does not.

    An administrator of the database runs it: rms-pipeline roles | psql ... The reader without money
    sees no amounts, no record as received, and nothing that people type at will, such as subjects,
    descriptions and custom fields.
    """
    from rms_pipeline.insight.readers import names_of_roles, statements

    schema = config.settings().schema_name
    names = names_of_roles(schema)
    chosen = [given or name for given, name in zip((with_money, without_money), names, strict=True)]
    if chosen[0] == chosen[1]:
        raise typer.BadParameter("the two roles need two names")
    for name in chosen:
        # PostgreSQL would cut it off, and the rest of the SQL would name another role.
        if len(name.encode()) > 63 or "\x00" in name or "$$" in name:
            raise typer.BadParameter(f"{name!r} is no name that a role of PostgreSQL can have")
    sys.stdout.write(statements(schema, *chosen))
