"""What gets a small model off its plateau: the first stage of the smallest one, with and without each of its parts.

    python pretraining/plateau.py TOKENS OUT.jsonl [--steps 2000]     # a quarter of an hour each on one core

A span-corruption model first learns what its decoder can know alone, and stays there (4.6 to 4.7 nats) until the
decoder reads the encoder. Every trial sees the same number of tokens a step. Held-out loss is on windows of the trial's
own width: those of different widths are not comparable.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from ladder import SPAN, STAGES, Stage
from train import train

BEGUN = STAGES["ladder-1m-begun"]
TRIED: Mapping[str, Stage] = MappingProxyType(
    {
        "as it is": BEGUN,
        "the encoder is not asked": replace(BEGUN, guide=0.0),
        "AdamW alone": replace(BEGUN, matrix_rate=0.0),
        "AdamW alone, the encoder is not asked": replace(BEGUN, matrix_rate=0.0, guide=0.0),
        "windows of 284": replace(BEGUN, objective=SPAN, rows=16),
    }
)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Compare ways off the plateau.")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", nargs="*", choices=list(TRIED), default=list(TRIED))
    chosen = parser.parse_args(arguments)
    for name in chosen.only:
        place = Path(tempfile.mkdtemp())
        scores = train("trial", TRIED[name], chosen.tokens, place, steps=chosen.steps)
        lines = [json.loads(line) for line in (place / "trial" / "record.jsonl").read_text().splitlines()]
        losses = [[line["step"], line["loss"]] for line in lines if line["event"] == "loss" and line["step"] % 100 == 0]
        with chosen.out.open("a") as file:
            file.write(json.dumps({"trial": name, **scores, "losses": losses}) + "\n")
        shutil.rmtree(place)


if __name__ == "__main__":
    main(sys.argv[1:])
