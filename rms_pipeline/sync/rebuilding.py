"""Making the rows again from what is stored, without one call of the API.

For when the mapping from records to columns was mended, or rows were damaged. Stored pages come
first, for rows that are missing; then each row's own `data`, which may be newer than any page.
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
    """`walks` and `pages` that were merged again, with what came of it in `merged`; then what came
    of decoding every row from its `data`."""

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
    """Merges the pages of every kept walk again, those of refreshes too, for theirs may be the last
    that was heard of a row; then decodes every row again.

    Safe beside running syncs, and after an interruption: nothing older replaces anything newer, and
    what was deleted stays deleted.
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
