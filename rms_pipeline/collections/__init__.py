"""Which collections of the API this program can mirror: a declaration each.

base     what a declaration says, and what follows from it
"""

from rms_pipeline.collections.base import Collection, Column
from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES

__all__ = ["COLLECTIONS", "Collection", "Column"]

# The first is always mirrored; the others are switched on by RMS_COLLECTIONS.
COLLECTIONS = (OPPORTUNITIES, MEMBERS, INVOICES)
