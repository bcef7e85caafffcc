"""A mirror belongs to one account."""

import pytest

from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.ownership import claim_mirror, demand_no_other_account


def rows(database: Database) -> int:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM opportunities")
        return int((cursor.fetchone() or (0,))[0])


def add_row(database: Database) -> None:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO opportunities (id, name) VALUES (1, 'One')")


def test_the_first_account_keeps_the_mirror(database: Database) -> None:
    assert claim_mirror(database, "acme", sandbox="sandbox") is False
    add_row(database)
    assert claim_mirror(database, "acme", sandbox="sandbox") is False
    assert rows(database) == 1


def test_another_account_is_refused_with_what_to_do(database: Database) -> None:
    claim_mirror(database, "acme", sandbox="sandbox")
    add_row(database)
    with pytest.raises(DatabaseError, match=r"mirrors the account acme.*POSTGRES_URL"):
        claim_mirror(database, "other", sandbox="sandbox")
    assert rows(database) == 1


def test_a_forgotten_account_brings_no_invented_rows_into_a_real_mirror(
    database: Database,
) -> None:
    claim_mirror(database, "acme", sandbox="sandbox")
    with pytest.raises(DatabaseError, match="Set CURRENT_RMS_SUBDOMAIN"):
        claim_mirror(database, "sandbox", sandbox="sandbox")


def test_invented_rows_make_room_for_a_real_account(database: Database) -> None:
    claim_mirror(database, "sandbox", sandbox="sandbox")
    add_row(database)
    assert claim_mirror(database, "acme", sandbox="sandbox") is True
    assert rows(database) == 0


@pytest.mark.parametrize("owner", ["acme", "sandbox", None])
def test_a_mirror_of_nobody_or_of_invented_rows_or_its_own_is_for_the_account(
    database: Database, owner: str | None
) -> None:
    if owner is not None:
        claim_mirror(database, owner, sandbox="sandbox")
    demand_no_other_account(database, "acme", sandbox="sandbox")


@pytest.mark.parametrize("account", ["globex", "sandbox"])
def test_a_mirror_of_another_account_is_refused_with_both_names_and_its_schema(
    database: Database, account: str
) -> None:
    claim_mirror(database, "acme", sandbox="sandbox")
    with pytest.raises(DatabaseError, match="schema public of this database") as refused:
        demand_no_other_account(database, account, sandbox="sandbox")
    said = str(refused.value)
    assert "acme" in said
    assert account in said
    assert "RMS_SCHEMA" in said
