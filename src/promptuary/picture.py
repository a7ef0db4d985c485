"""The description of a prompt (`promptuary.show`), drawn in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table


def draw(described: dict[str, Any], console: Console) -> None:
    """Draw a description."""
    table = Table(show_header=False, title=f"{described['method']} on {described['backbone']}")
    shown = (
        "settings",
        "init",
        "task",
        "labels",
        "readout",
        "scores",
        "counts",
        "seconds",
        "soft_tokens",
        "numbers_per_token",
        "enters",
        "alarms",
    )
    for name in shown:
        table.add_row(name.replace("_", " "), _short(described[name]))
    console.print(table)
    if "nearest" not in described:
        if described["soft_tokens"]:
            console.print(
                "Keys, values and hidden states have no nearest words: they do not live among word embeddings."
            )
        return
    scale = described["scale"]
    console.print(
        f"scale: soft tokens {scale['deviation']:.3f} (rows {scale['row_norm']:.2f}), embedding table "
        f"{scale['table_deviation']:.3f} (rows {scale['table_row_norm']:.2f});"
        f" mean cosine between soft tokens {scale['cosine']:.2f}"
    )
    words = Table("soft token", "nearest words by cosine", title="nearest words")
    for i, neighbours in enumerate(described["nearest"]):
        words.add_row(str(i), "  ".join(f"{word} {cosine:.2f}" for word, cosine in neighbours))
    console.print(words)
    console.print(
        f"A random vector's nearest word has a cosine of {described['control_cosine']:.2f}: "
        "what is not clearly above it says nothing."
    )


def draw_generator(described: dict[str, Any], console: Console) -> None:
    """Draw the description of a pre-trained generator (`promptuary.pretrained`)."""
    table = Table(show_header=False, title=f"generator of {described['generator']}")
    for name, value in described.items():
        if name not in ("generator", "tensors"):
            table.add_row(name, _short(value))
    console.print(table)
    tensors = Table("tensor", "shape", "deviation")
    for name, found in described["tensors"].items():
        tensors.add_row(name, " x ".join(map(str, found["shape"])), _short(found["deviation"]))
    console.print(tensors)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)
