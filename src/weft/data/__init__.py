"""From tables to batches: reading, fitting, splitting, the store, sampling, loading, description.

Every part is imported by its own name, so that a training process need not load what only preparation uses.
"""
