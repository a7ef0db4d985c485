"""The description of a prompt and of what it does with rows (`promptuary.show`), drawn in the terminal."""

from collections.abc import Sequence
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
        table.add_row(name.replace("_", " "), short(described[name]))
    console.print(table)
    if "nearest" not in described:
        if described["soft_tokens"] and described["enters"] == "Embeddings":
            if "data" not in described:
                console.print("The prompt is made or chosen for each input: --data FILE shows its nearest words.")
        elif described["soft_tokens"]:
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


def draw_rows(data: dict[str, Any], console: Console) -> None:
    """Draw what a prompt did with rows (`show.describe_rows`), and how its choices went while it was tuned."""
    sizes = ", ".join(f"{name} {n:,}" for name, n in zip(data["classes"], data["rows_by_class"], strict=True))
    sizes = sizes if len(data["classes"]) <= LINES else f"{len(data['classes'])} classes"
    scored = "" if data["accuracy"] is None else f"; accuracy {data['accuracy']:.4f}"
    console.print(f"\n{data['rows']:,} rows of {data['source']} ({GROUPED[data['grouped_by']]}): {sizes}{scored}")
    for name, choice in data["choices"].items():
        _draw_choice(name, choice, data, console)
    if data["before"] is None:
        console.print("No soft token stands in the row.")
    else:
        _draw_counts("where it stands: soft tokens before the input", data["before"], data, console)
    _draw_counts("length: soft tokens", data["lengths"], data, console)
    _draw_separation(data, console)
    if "nearest" in data:
        words = Table("class", "nearest words by cosine", title="words nearest to each class's mean prompt")
        for name, neighbours in zip(data["classes"], data["nearest"], strict=True):
            words.add_row(name, "  ".join(f"{word} {cosine:.2f}" for word, cosine in neighbours))
        console.print(words)
        console.print(f"A random vector's nearest word has a cosine of {data['control_cosine']:.2f}.")


# Tables have a column, or a line, for each of so many classes, the commonest ones.
COLUMNS = 4
LINES = 12
BAR = 8
GROUPED = {"label": "by their labels", "predicted": "by what the prompt predicts", "all": "the task has no classes"}


def commonest(rows_by_class: Sequence[int], most: int) -> list[int]:
    """The numbers of the classes with the most rows, at most so many, in their own order."""
    return sorted(sorted(range(len(rows_by_class)), key=lambda c: -rows_by_class[c])[:most])


def _draw_choice(name: str, choice: dict[str, Any], data: dict[str, Any], console: Console) -> None:
    console.print(f"\n{name} decides {choice['decides']}{'' if choice['trained'] else ' (a control, not trained)'}")
    curve = [(event["step"], event["share"][name]) for event in data["training"] if name in event["share"]]
    if curve:
        line = "".join(LEVELS[min(7, int(8 * max(0.0, share)))] for _, share in _thinned(curve, 40))
        console.print(
            f"entropy while tuned, in steps {curve[0][0]} to {curve[-1][0]}, of log({choice['options']}): "
            f"{curve[0][1]:.0%} {line} {curve[-1][1]:.0%}"
        )
    console.print(f"entropy on these rows: {choice['share']:.0%} of log({choice['options']})")
    shown = commonest(data["rows_by_class"], COLUMNS)
    table = Table("option", *(data["classes"][c] for c in shown), title="mean weight of each option by class")
    largest = max(max(weights) for weights in choice["weights"])
    for option in range(choice["options"]):
        own = [choice["weights"][c][option] for c in shown]
        if max(own) >= 0.005:
            table.add_row(str(choice["first"] + option), *(_bar(w / largest, f"{w:.2f}") for w in own))
    console.print(table)
    _told_left_out(shown, data, console)


LEVELS = "▁▂▃▄▅▆▇█"


def _thinned(curve: Sequence[Any], most: int) -> list[Any]:
    """At most so many points, from the first to the last."""
    step = max(1.0, (len(curve) - 1) / (most - 1))
    return [curve[round(i * step)] for i in range(min(most, len(curve)))]


def _draw_counts(title: str, counts: list[list[int]], data: dict[str, Any], console: Console) -> None:
    """A histogram by class; a sentence where all rows are alike."""
    known = [value for value in range(len(counts[0])) if any(own[value] for own in counts)]
    if len(known) == 1:
        console.print(f"{title}: {known[0]} in every row")
        return
    shown = commonest(data["rows_by_class"], COLUMNS)
    table = Table("soft tokens", *(data["classes"][c] for c in shown), title=title)
    largest = max(max(counts[c]) / data["rows_by_class"][c] for c in shown)
    for value in known:
        own = [(counts[c][value], counts[c][value] / data["rows_by_class"][c]) for c in shown]
        table.add_row(str(value), *(_bar(share / largest, f"{count:,}") for count, share in own))
    console.print(table)
    _told_left_out(shown, data, console)


def _told_left_out(shown: Sequence[int], data: dict[str, Any], console: Console) -> None:
    left = len(data["classes"]) - len(shown)
    if left:
        console.print(f"The {len(shown)} commonest classes; --json has the other {left} too.")


def _bar(share: float, told: str) -> str:
    return f"{'█' * round(BAR * share):<{BAR}} {told}"


def _draw_separation(data: dict[str, Any], console: Console) -> None:
    if data["separation"] is None:
        console.print("The prompt's vectors are the same for every row, or the rows are of one class.")
        return
    found, shown = data["separation"], commonest(data["rows_by_class"], LINES)
    table = Table(
        "nearest neighbour of the same class", "by the prompt's vectors", "by the mean of the input's embeddings",
        title=f"how far the vectors of {data['sampled']:,} rows tell the classes apart",
    )  # fmt: skip
    for c in shown:
        table.add_row(data["classes"][c], *(percent(each["by_class"][c]) for each in found.values()))
    table.add_section()
    table.add_row("all rows", *(f"{each['accuracy']:.1%}" for each in found.values()))
    table.add_row("control: shuffled labels", *(f"{each['shuffled']:.1%}" for each in found.values()))
    console.print(table)
    _told_left_out(shown, data, console)
    console.print(
        "What is not clearly above the control is chance; what is not above the second column was in the input already."
    )


def percent(share: float | None) -> str:
    """A share as a percentage; a dash where there is none."""
    return "-" if share is None else f"{share:.0%}"


def draw_generator(described: dict[str, Any], console: Console) -> None:
    """Draw the description of a pre-trained generator (`promptuary.pretrained`)."""
    table = Table(show_header=False, title=f"generator of {described['generator']}")
    for name, value in described.items():
        if name not in ("generator", "tensors"):
            table.add_row(name, short(value))
    console.print(table)
    tensors = Table("tensor", "shape", "deviation")
    for name, found in described["tensors"].items():
        tensors.add_row(name, " x ".join(map(str, found["shape"])), short(found["deviation"]))
    console.print(tensors)


def short(value: Any) -> str:
    """A value in a line: numbers to four digits, what is not set left out."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {short(v)}" for k, v in value.items() if v is not None) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(short, value)) or "-"
    return "-" if value is None else str(value)
