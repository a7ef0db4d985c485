"""Which learning rates the ladder uses, and why: short runs of two sizes, scored on held-out text.

python pretraining/rates.py TOKENS OUT.json [--steps 400]
"""

import argparse
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

from ladder import STAGES
from train import train

TRIED = {
    "ladder-1m-span": [*itertools.product((2e-3, 4e-3, 8e-3), (10.0,)), (4e-3, 1.0), (4e-3, 3.0), (4e-3, 30.0)],
    "ladder-12m-span": [*itertools.product((1e-3, 2e-3, 4e-3), (10.0,)), (2e-3, 3.0), (2e-3, 30.0)],
    "ladder-causal-4m": [*itertools.product((2e-3, 4e-3, 8e-3), (1.0,))],
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Compare learning rates.")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    chosen = parser.parse_args(arguments)
    found = []
    for name, pairs in TRIED.items():
        for rate, embedding in pairs:
            stage = replace(STAGES[name], rate=rate, embedding=embedding)
            scores = train(name, stage, chosen.tokens, chosen.out.parent, steps=chosen.steps, save=False)
            found.append({"rate": rate, "embedding": embedding, **scores})
            chosen.out.write_text("".join(json.dumps(line) + "\n" for line in found))


if __name__ == "__main__":
    main(sys.argv[1:])
