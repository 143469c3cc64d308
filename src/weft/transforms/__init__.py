"""From raw columns to ids and numbers: one code path, offline over tables and online over single rows."""
