"""One frozen model that answers for many prompts at once: the engine, which knows rows, and what speaks HTTP to it."""
