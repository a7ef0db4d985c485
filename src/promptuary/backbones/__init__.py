"""Frozen models, by calling convention: the only folder that imports transformers."""
