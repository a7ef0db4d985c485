"""The corpus as texts and as tokens.

    python pretraining/corpus.py CORPUS TOKENS    # CORPUS/train-*.txt.xz -> TOKENS/*.npy, all cores, a minute

CORPUS is a folder of `train-00.txt.xz` ... and `validation-00.txt.xz`: one paragraph a line, an empty line between
documents. Each file becomes one flat array of token ids (uint16), every document followed by the end token; the arrays
are memory-mapped. A file that is there already is not made again; none is ever half-written.
"""

import argparse
import lzma
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

# The core is modern and mixed; the extra parts are mostly the rest of the old books.
CORE = tuple(f"train-{i:02}.txt.xz" for i in range(5))
EXTRA = tuple(f"train-{i:02}.txt.xz" for i in range(5, 10))
VALIDATION = "validation-00.txt.xz"
END = 1  # the id of the end token
TOKENIZER = Path(__file__).parent / "tokenizer" / "causal" / "tokenizer.json"


def documents(file: Path) -> Iterator[str]:
    """The documents of a file; lines are paragraphs."""
    with lzma.open(file, "rt", encoding="utf8") as opened:
        yield from (text.strip("\n") for text in opened.read().split("\n\n") if text.strip())


def paragraphs(file: Path) -> Iterator[str]:
    """The paragraphs of a file."""
    for text in documents(file):
        yield from text.split("\n")


def encode(file: Path, place: Path) -> Path:
    """Write one file's tokens, unless they are there: one dimension, uint16."""
    written = place / f"{file.name.split('.')[0]}.npy"
    if written.exists():
        return written
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    found = [np.array([*coded.ids, END], np.uint16) for coded in tokenizer.encode_batch_fast(list(documents(file)))]
    part = written.with_suffix(f".{os.getpid()}")
    with part.open("wb") as opened:
        np.save(opened, np.concatenate(found))
    part.rename(written)
    return written


def tokens(place: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """The memory-mapped tokens of some files, as `encode` wrote them."""
    return [np.load(place / f"{name.split('.')[0]}.npy", mmap_mode="r") for name in names]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Tokenise the corpus.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    chosen = parser.parse_args(arguments)
    chosen.tokens.mkdir(parents=True, exist_ok=True)
    files = sorted(chosen.corpus.glob("*.txt.xz"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a file
    with ProcessPoolExecutor(chosen.processes) as pool:
        for written in pool.map(
            encode, [f for f in files if f.name in {*CORE, *EXTRA, VALIDATION}], repeat(chosen.tokens)
        ):
            print(written.name, f"{len(np.load(written, mmap_mode='r')):,} tokens", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
