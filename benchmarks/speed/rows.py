"""What many encoded rows take in memory: as Python's lists, and in a file that is mapped (`promptuary.data.kept`).

    OMP_NUM_THREADS=1 python benchmarks/speed/rows.py    # writes benchmarks/results/rows.json

307,200 rows of 30 random tokens, each way in a process of its own. Memory is what the process holds of its own above
what it held before (pages of a mapped file belong to the system); a batch is 32 rows from all over
the set, read and then padded into tensors.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from promptuary.data import kept
from promptuary.data.collate import collate
from promptuary.data.example import Example
from promptuary.train import record

RESULTS = Path(__file__).resolve().parent.parent / "results" / "rows.json"
ROWS, TOKENS, BATCH, CHUNK = 307_200, 30, 32, 1024
HELD = {"lists": 1 << 60, "mapped": kept.HELD}


def own() -> int:
    """Bytes in memory that are of this process alone."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return 1024 * int(found[1])


def chunks() -> Iterator[list[Example]]:
    draw = random.Random(0)
    for _ in range(ROWS // CHUNK):
        yield [Example([draw.randrange(30_000) for _ in range(TOKENS)], [0] * TOKENS, label=1) for _ in range(CHUNK)]


def measured(way: str) -> dict[str, Any]:
    kept.HELD = HELD[way]
    before, began = own(), time.process_time()
    rows = kept.kept(chunks())
    made, draw = time.process_time() - began, random.Random(1)
    read, whole = list[float](), list[float]()
    for _ in range(200):
        places = [draw.randrange(ROWS) for _ in range(BATCH)]
        began = time.process_time()
        drawn = [rows[place] for place in places]
        read.append(1000 * (time.process_time() - began))
        collate(drawn, places, 0)
        whole.append(1000 * (time.process_time() - began))
    memory = (own() - before) / 1e6
    return {"way": way, "megabytes": memory, "made_s": made, "read_ms": median(read), "batch_ms": median(whole)}


def main() -> None:
    """Measure, print, write."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asked.add_argument("--way", choices=list(HELD))
    way = asked.parse_args().way
    if way:
        print(json.dumps(measured(way)))
        return
    lines = [
        json.loads(subprocess.run([sys.executable, __file__, "--way", name], check=True, capture_output=True).stdout)
        for name in HELD
    ]
    about = {"rows": ROWS, "tokens": TOKENS, "batch": BATCH}
    RESULTS.write_text(json.dumps({**about, "ways": lines, **record.surroundings()}, indent=1) + "\n")
    print(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
