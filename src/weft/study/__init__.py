"""Whole experiments: comparisons, searches, crosses, the demo; and what the registry tells of the models."""
