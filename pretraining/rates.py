"""Which learning rates the ladder uses, and why: short runs of two sizes, scored on held-out text.

python pretraining/rates.py TOKENS OUT.json [--steps 400]
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from ladder import STAGES
from train import train

TRIED = {
    "ladder-1m-span": (1e-2, 2e-2, 4e-2),
    "ladder-12m-span": (0.5e-2, 1e-2, 2e-2, 4e-2),
    "ladder-causal-4m": (2.5e-2, 5e-2, 1e-1),
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Compare learning rates.")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    chosen = parser.parse_args(arguments)
    found = []
    for name, rates in TRIED.items():
        for rate in rates:
            stage = replace(STAGES[name], rate=rate)
            scores = train(name, stage, chosen.tokens, chosen.out.parent, steps=chosen.steps, save=False)
            found.append({"rate": rate, **scores})
            chosen.out.write_text("".join(json.dumps(line) + "\n" for line in found))


if __name__ == "__main__":
    main(sys.argv[1:])
