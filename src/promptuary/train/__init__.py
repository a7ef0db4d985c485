"""Tuning a prompt: one loop, its optimizers, its record."""
