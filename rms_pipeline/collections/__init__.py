"""Which collections of the API this program can mirror: a declaration each.

base     what a declaration says, and what follows from it
"""

from rms_pipeline.collections.base import Collection, Column
from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.collections.opportunity_items import OPPORTUNITY_ITEMS
from rms_pipeline.errors import RmsPipelineError

__all__ = ["COLLECTIONS", "Collection", "Column", "NoSuchCollection", "collection_named"]

# The first is always mirrored; the others are switched on by RMS_COLLECTIONS.
COLLECTIONS = (OPPORTUNITIES, MEMBERS, INVOICES, OPPORTUNITY_ITEMS)


class NoSuchCollection(RmsPipelineError):
    """No collection has that name. The text lists all names."""


def collection_named(name: str) -> Collection:
    """The collection with that name. Raises NoSuchCollection."""
    for collection in COLLECTIONS:
        if collection.name == name:
            return collection
    known = ", ".join(c.name for c in COLLECTIONS)
    raise NoSuchCollection(f"There is no collection {name}. There are: {known}.")
