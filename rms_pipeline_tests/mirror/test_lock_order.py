"""Whatever notes something of several rows at once locks them in one order: no two writers wait for
one another."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.collections.opportunity_items import OPPORTUNITY_ITEMS
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.parts import note_problems
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.unreadable import forget_unreadable, note_unreadable
from rms_pipeline.mirror.webhook_absences import note_absences

Note = Callable[[Connection, Sequence[int]], object]

NOTES: dict[str, Note] = {
    "unreadable": lambda c, ids: note_unreadable(
        c, OPPORTUNITIES, dict.fromkeys(ids, "no number"), "run"
    ),
    "read after all": lambda c, ids: forget_unreadable(c, OPPORTUNITIES, ids),
    "absent": lambda c, ids: note_absences(c, OPPORTUNITIES, dict.fromkeys(ids, True)),
    "lists with a problem": lambda c, ids: note_problems(
        c, OPPORTUNITY_ITEMS, dict.fromkeys(ids, "500")
    ),
}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("unreadable", "unreadable"),
        ("unreadable", "read after all"),
        ("absent", "absent"),
        ("lists with a problem", "lists with a problem"),
    ],
)
def test_two_who_note_the_same_rows_from_both_ends_do_not_wait_for_one_another(
    emptied: Database, one: str, other: str
) -> None:
    ids = list(range(1, 801))
    together = Barrier(2)

    def note(what: str, ids: Sequence[int]) -> None:
        with emptied.session() as connection:
            for _ in range(12):
                together.wait(timeout=20)
                NOTES[what](connection, ids)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(note, one, ids), pool.submit(note, other, ids[::-1])]
        for writer in writers:
            writer.result()
