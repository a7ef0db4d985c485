"""From files and text to batches of token ids: the only folder that knows text."""
