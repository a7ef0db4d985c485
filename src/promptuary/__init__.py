"""Soft prompts for frozen language models: tune, compare, explain, serve."""
