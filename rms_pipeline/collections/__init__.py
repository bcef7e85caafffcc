"""Which collections of the API this program can mirror: a declaration each.

base     what a declaration says, and what follows from it
"""

from rms_pipeline.collections.base import Collection, Column
from rms_pipeline.collections.opportunities import OPPORTUNITIES

__all__ = ["COLLECTIONS", "Collection", "Column"]

COLLECTIONS = (OPPORTUNITIES,)
