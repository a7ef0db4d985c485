"""Times as people write them."""

import re

from promptuary.errors import SettingError

SHORTEST_S = 30  # seconds of a search: loading and measuring take some ten
UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)")


def seconds(text: str) -> float:
    """`20min`, `90s`, `1h30min`, `2 h` in seconds.

    Raises:
        SettingError: for anything else.
    """
    plain = text.strip().lower()
    parts = PART.findall(plain)
    if not parts or PART.sub("", plain).strip() or any(unit not in UNITS for _, unit in parts):
        raise SettingError(f"{text!r} is no time. Write 20min, 90s, 2h or 1h30min.")
    return sum(float(number) * UNITS[unit] for number, unit in parts)
