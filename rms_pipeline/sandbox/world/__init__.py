"""What the invented company owns and does. The same seed and day give the same."""
