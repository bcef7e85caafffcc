"""Rebuilds the rows from stored answers, without an API call.

Use it after the mapping was corrected or rows were damaged. It begins with the stored pages,
because rows may be missing. Then it decodes the `data` of each row, which may be newer than every
page.
"""

from dataclasses import dataclass, field

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror import walks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.merge import MergeResult
from rms_pipeline.mirror.progress import Progress, note_progress
from rms_pipeline.mirror.redecode import Redecoded, redecode
from rms_pipeline.sync.storing import Watcher, merge_walks


@dataclass(slots=True)
class Rebuilt:
    """The result of a rebuild.

    `walks` and `pages` were merged again, with the result `merged`. The rest is the result of
    decoding every row from its `data`.
    """

    walks: int = 0
    pages: int = 0
    merged: MergeResult = field(default_factory=MergeResult)
    redecoded: Redecoded = field(default_factory=Redecoded)

    def __iadd__(self, other: "Rebuilt") -> "Rebuilt":
        self.walks += other.walks
        self.pages += other.pages
        self.merged += other.merged
        self.redecoded += other.redecoded
        return self


def rebuild(
    database: Database, collection: Collection, run: str, watch: Watcher = lambda _: None
) -> Rebuilt:
    """Merge the pages of every stored walk again, also those of refreshes. Then decode every row
    again.

    Safe while syncs run, and after an interruption: an older record never replaces a newer one, and
    deleted rows stay deleted.
    """
    done = Rebuilt()
    with database.session() as notes:
        kept = walks.kept_walks(notes, collection)
        merged = merge_walks(database, collection, kept, run, watch=watch)
        done.walks, done.pages, done.merged = len(kept), merged.pages, merged.result

        def follow(progress: Progress) -> None:
            note_progress(notes, run, progress)
            watch(progress)

        done.redecoded = redecode(database, collection, run, watch=follow)
    return done
