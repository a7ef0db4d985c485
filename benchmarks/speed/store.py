"""What a thousand tasks cost a store: its start, opening a prompt, and the memory of each beside its bytes on the disk.

    OMP_NUM_THREADS=1 python benchmarks/speed/store.py    # writes benchmarks/results/store.json

Prompts of one task on the bundled `minilm`, tuned for one epoch and copied. Times are processor time; medians.
"""

import gc
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import load
from promptuary.specs import Run
from promptuary.store import FILES, Store
from promptuary.train import record
from promptuary.tuning import tune

RESULTS = Path(__file__).resolve().parent.parent / "results" / "store.json"
METHODS, TASKS, OPENED = ("prompt-tuning", "p-tuning-v2"), 1000, 300


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def measured(method: str, backbone: Backbone, place: Path) -> dict[str, Any]:
    """A store of one prompt many times over."""
    data = {"train": "sample:intents/train", "validation": "sample:intents/validation"}
    tune(Run(backbone="minilm", method=method, recipe={"epochs": 1}, out=str(place / "tuned"), **data))
    for n in range(TASKS):
        (place / "store" / f"task-{n}").mkdir(parents=True)
        for file in FILES:
            if (place / "tuned" / file).exists():
                shutil.copy(place / "tuned" / file, place / "store" / f"task-{n}")
    began = time.process_time()
    store = Store(place / "store", backbone)
    names = store.names()
    start = time.process_time() - began
    store.get(names[0])
    gc.collect()
    before, spent = resident(), []
    for name in names[1 : OPENED + 1]:
        began = time.process_time()
        store.get(name)
        spent.append(time.process_time() - began)
    gc.collect()
    began = time.process_time()
    for _ in range(1000):
        store.get(names[0])
    again = (time.process_time() - began) / 1000
    return {
        "method": method, "tasks": TASKS, "start_ms": round(1000 * start, 1), "open_ms": round(1000 * median(spent), 2),
        "again_us": round(1e6 * again, 1), "memory_bytes": (resident() - before) // OPENED,
        "disk_bytes": sum(f.stat().st_size for f in (place / "store" / names[0]).iterdir()),
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    backbone, lines = load("minilm"), []
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(measured(method, backbone, Path(folder)))
            print(json.dumps(lines[-1]), flush=True)
    RESULTS.write_text(json.dumps({"stores": lines, **record.surroundings()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
