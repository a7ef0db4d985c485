"""What `promptuary show` says of a prompt: as plain values, and drawn in the terminal."""

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from promptuary.show import control, nearest_words, sizes
from promptuary.tuned import Tuned


def describe(tuned: Tuned, *, words: int = 5) -> dict[str, Any]:
    """The prompt in plain values: how it was made, its scores, its scale, its nearest words.

    Nearest words exist for prompts at the input only: keys and values do not live among word embeddings.
    """
    run = dict(tuned.manifest.run)
    described: dict[str, Any] = {
        "method": tuned.manifest.method,
        "settings": dict(tuned.manifest.settings),
        "backbone": tuned.manifest.backbone,
        "seed": tuned.manifest.seed,
        "task": tuned.task.kind,
        "labels": list(tuned.task.labels),
        "readout": run.get("readout", type(tuned.readout).__name__),
        "scores": run.get("scores"),
        "seconds": run.get("seconds"),
        "alarms": run.get("alarms"),
        "soft_tokens": tuned.model.generator.length,
        "numbers_per_token": tuned.model.generator.width,
        "enters": type(tuned.model.injection).__name__,
    }
    with torch.no_grad():
        one = tuned.model.generator.fixed()
    if one is None or one.values.shape[2] != tuned.backbone.shape.dim or one.values.shape[1] == 0:
        return described
    vectors, table = one.values[0].detach().cpu(), tuned.backbone.table.cpu()
    special = [int(i) for i in tuned.backbone.tokenizer.all_special_ids]
    measured = sizes(vectors, table)
    described["scale"] = vars(measured)
    described["control_cosine"] = control(table, leave_out=special)
    described["nearest"] = [
        [(tuned.backbone.tokenizer.convert_ids_to_tokens(i), c) for i, c in zip(n.ids, n.cosine, strict=True)]
        for n in nearest_words(vectors, table, count=words, leave_out=special)
    ]
    return described


def draw(described: dict[str, Any], console: Console) -> None:
    """Draw a description."""
    table = Table(show_header=False, title=f"{described['method']} on {described['backbone']}")
    shown = (
        "settings",
        "task",
        "labels",
        "readout",
        "scores",
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


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)
