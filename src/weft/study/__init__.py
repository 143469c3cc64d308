"""Whole experiments: the demo, and tables over the registry of models."""
