"""How a deep prefix lies on the disk for vLLM, and how a request names it. Read in vLLM's environment too: no imports.

`FOLDER/NAME.safetensors` holds `key.LAYER` and `value.LAYER`, each `[prompt, heads * numbers]`; NAME is made of the
file's own bytes, so that a prompt that was tuned anew has another name and nothing cached for the old one.
"""

import re

KEY, VALUE = "key", "value"
SALT = re.compile(r"promptuary:([1-9][0-9]{0,5}):([0-9a-f]{32})")


def salt(name: str, length: int) -> str:
    """The `cache_salt` of a request behind that prefix."""
    return f"promptuary:{length}:{name}"


def named(text: str | None) -> tuple[str, int] | None:
    """The name and the length of the prefix that a salt names; `None` for any other salt."""
    found = SALT.fullmatch(text or "")
    return None if found is None else (found[2], int(found[1]))
