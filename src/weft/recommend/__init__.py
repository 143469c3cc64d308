"""Recommending: ranked lists of the catalogue for users. Loads neither polars nor the training rooms."""
