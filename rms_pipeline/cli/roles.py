"""`rms-pipeline roles`: SQL for roles that can only read."""

import sys
from typing import Annotated

import typer

from rms_pipeline import settings as config


def roles(
    with_money: Annotated[
        str | None,
        typer.Option(
            help="Name of the role that can read money. Without it: rms_reader_with_money, or with "
            "another RMS_SCHEMA its name in place of rms."
        ),
    ] = None,
    without_money: Annotated[
        str | None,
        typer.Option(
            help="Name of the role that cannot read money. Without it: rms_reader_without_money, "
            "or with another RMS_SCHEMA its name in place of rms."
        ),
    ] = None,
) -> None:
    """Print SQL for two roles that can only read views: one sees money, one does not.

    An administrator of the database runs it: rms-pipeline roles | psql ... The role without money
    sees no amounts, no record as received and no free text, such as subjects, descriptions and
    custom fields.
    """
    from rms_pipeline.insight.readers import names_of_roles, statements

    schema = config.settings().schema_name
    names = names_of_roles(schema)
    chosen = [given or name for given, name in zip((with_money, without_money), names, strict=True)]
    if chosen[0] == chosen[1]:
        raise typer.BadParameter("give the two roles different names")
    for name in chosen:
        # PostgreSQL would cut it off, and the rest of the SQL would name another role.
        if len(name.encode()) > 63 or "\x00" in name or "$$" in name:
            raise typer.BadParameter(f"{name!r} is not a valid name of a PostgreSQL role")
    sys.stdout.write(statements(schema, *chosen))
