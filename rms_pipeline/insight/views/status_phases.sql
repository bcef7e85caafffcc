-- version 1. Raise it with every change: of two programs on one database the higher makes the view.
-- What the table statuses says of each status, for those who may read views alone. A status that is
-- not here counts as open.

CREATE OR REPLACE VIEW status_phases AS
SELECT s.name, s.phase, s.sort, s.colour FROM statuses s;

COMMENT ON VIEW status_phases IS 'The phase and the order of each status, for readers of views. A status that is not in it counts as open.';
COMMENT ON COLUMN status_phases.name IS 'The status as Current RMS calls it.';
COMMENT ON COLUMN status_phases.phase IS 'open, confirmed or lost.';
COMMENT ON COLUMN status_phases.sort IS 'Its place in lists: the lowest number comes first.';
COMMENT ON COLUMN status_phases.colour IS '#rrggbb.';
