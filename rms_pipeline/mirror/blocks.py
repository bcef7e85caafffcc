"""SQL that reads the index of words block after block, the newest ids first.

`mirror.words` says what a block is. In a query for words, `BLOCK` stands for the block of a row.
"""

from rms_pipeline.mirror.words import BLOCK_BITS

# Stands for a block in a query for words. No word contains it.
BLOCK = "~"
# The parameters are `before` (ids below it, or NULL for all) and `blocks` (how many, or NULL).
BLOCKS = (
    "WITH RECURSIVE blocks (block, number) AS ("
    f"(SELECT id >> {BLOCK_BITS}, 1 FROM opportunity_words"
    " WHERE %(before)s IS NULL OR id < %(before)s ORDER BY id DESC LIMIT 1) UNION ALL"
    f" SELECT (SELECT id >> {BLOCK_BITS} FROM opportunity_words"
    f" WHERE id < block << {BLOCK_BITS} ORDER BY id DESC LIMIT 1), number + 1 FROM blocks"
    " WHERE block IS NOT NULL AND (%(blocks)s IS NULL OR number < %(blocks)s))"
)
# The rows of one block that hold the words of the parameter `query`. By the index of words alone:
# along the ids one would read all that do not match.
HELD_IN_BLOCK = (
    "(SELECT id FROM opportunity_words"
    f" WHERE words @@ replace(%(query)s, '{BLOCK}', block::text)::tsquery OFFSET 0) w"
)
