"""Serving: a recommender behind HTTP, and the store of what happened. Loads neither polars nor the training rooms."""
