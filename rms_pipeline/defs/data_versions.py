"""Data versions: how Dagster tells whether an asset holds other data than before.

Without one, Dagster makes it from the version of the code and the data versions of what the asset
is made from. The API has none, so every sync would have the same, whatever it stored. Then nothing
downstream would ever be out of date, and `AutomationCondition.data_version_changed()` never true.
"""

import hashlib
import uuid
from collections.abc import Iterable

import dagster as dg

from rms_pipeline.collections.base import Collection
from rms_pipeline.defs.compat import DATA_VERSION_TAG
from rms_pipeline.mirror.proofs import WriterHangs, content_number
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.summary import StatusCount

# In seconds. Writers need a moment. Somebody's open transaction must not hold up a sync.
_PATIENCE = 1.0


def version_of_pages(walk: int) -> dg.DataVersion:
    """The data version of pages as received: each walk fetches others."""
    return dg.DataVersion(str(walk))


def version_of_table(connection: Connection, collection: Collection) -> dg.DataVersion:
    """The data version of the rows that everybody can read now. It changes with the content of any
    row, and with the mapping. Commits."""
    try:
        content = str(content_number(connection, collection, patience=_PATIENCE))
    except WriterHangs:
        # Another session has rows that nobody can read yet, and no number is without them. The next
        # version must differ, so nobody else gets this one.
        content = uuid.uuid4().hex
    return dg.DataVersion(f"{collection.version}.{content}")


def version_of_counts(counts: Iterable[StatusCount]) -> dg.DataVersion:
    """The data version of the counts: a digest of them."""
    told = "\n".join(repr(tuple(each)) for each in sorted(counts))
    return dg.DataVersion(hashlib.sha256(told.encode()).hexdigest()[:16])


def tagged(version: dg.DataVersion) -> dict[str, str]:
    """The tags of an `AssetMaterialization` of that version, which takes none otherwise."""
    return {DATA_VERSION_TAG: version.value}
