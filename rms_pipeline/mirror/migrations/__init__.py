"""Our tables, one step at a time. A step that has landed never changes again: it calls no living
code, only `frozen`, which lies beside the steps."""
