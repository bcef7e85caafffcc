-- version 2. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- The table statuses, for readers who can only read views. A status that is not in it counts as
-- open.

CREATE OR REPLACE VIEW status_phases AS
SELECT s.name, s.phase, s.sort, s.colour FROM statuses s;

COMMENT ON VIEW status_phases IS 'The phase and the order of each status, for readers of views. A status that is not in it counts as open.';
COMMENT ON COLUMN status_phases.name IS 'The status as Current RMS calls it.';
COMMENT ON COLUMN status_phases.phase IS 'open, confirmed or lost.';
COMMENT ON COLUMN status_phases.sort IS 'Its place in lists: the lowest number comes first.';
COMMENT ON COLUMN status_phases.colour IS '#rrggbb.';
