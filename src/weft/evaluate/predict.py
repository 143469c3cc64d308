"""Score every row of a table with a run."""
