"""What `promptuary show --data` found, as one page of HTML: text, tables, and pictures (`drawing`) as inline SVG.

The page is whole by itself (`markup`) and runs no script. Classes differ in colour (Okabe and Ito's, which colour-blind
readers can tell apart) and in the form of their points.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptuary import drawing
from promptuary.drawing import COLOURS, FORMS, OTHERS
from promptuary.errors import DataError, SettingError, nearest
from promptuary.files import whole
from promptuary.markup import figure, folded, page, paragraph, section, table
from promptuary.picture import GROUPED, commonest, percent, short

if TYPE_CHECKING:
    from promptuary.inspecting import Inspected
    from promptuary.projecting import Plane

PROJECTIONS = {"pca": "principal components", "tsne": "t-SNE"}
HEATED = 24  # classes in a picture of weights, and in one of counts
COUNTED = 8
WORDLESS = (
    "None for keys, values and hidden states, which do not live among word embeddings, and for a pool that mixes the "
    "same prompt for every row."
)


def check_page(path: Path, projection: str) -> None:
    """Refuse what would only fail when the work is done.

    Raises:
        SettingError: for an unknown projection, and where matplotlib is missing.
        DataError: where no file can be put.
    """
    if projection not in PROJECTIONS:
        raise SettingError(f"projection={projection!r}. {nearest(projection, PROJECTIONS)}")
    drawing.check("The page's pictures")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise DataError(f"{path} is no file that could be written. Name a file in a folder that exists (--html).")


def write_page(path: Path, described: Mapping[str, Any], seen: "Inspected", *, projection: str = "pca") -> None:
    """Write the page.

    Arguments:
        described: what `show.describe` says, with `data`, what `show.describe_rows` says.
        seen: of the same rows, for the pictures of vectors. projection: `pca` or `tsne`.

    Raises:
        SettingError, DataError: as `check_page`; DataError when the file cannot be written, and nothing is left then.
    """
    check_page(path, projection)
    made = render(described, _planes(described["data"], seen, projection), projection=projection)
    try:
        with whole(path) as file:
            file.write(made.encode(errors="replace"))
    except OSError as error:
        raise DataError(f"{path}: could not be written ({error.strerror or error}); nothing was left there.") from error


def _planes(data: Mapping[str, Any], seen: "Inspected", projection: str) -> "list[tuple[str, Plane, list[int]]]":
    """A title, a plane and the class of each point, for prompts and control; none where these say nothing."""
    if data["separation"] is None:
        return []
    from promptuary.projecting import project

    groups = seen.grouped()[seen.sampled].tolist()
    titles = {"The prompt's vectors": seen.vectors, "Control: the mean of the input's own embeddings": seen.inputs}
    return [(title, project(vectors, projection), groups) for title, vectors in titles.items()]  # type: ignore[arg-type]


def render(
    described: Mapping[str, Any], planes: "Sequence[tuple[str, Plane, list[int]]]", *, projection: str = "pca"
) -> str:
    """The page as text; see `write_page`."""
    data = described["data"]
    title = f"{described['method']} on {described['backbone']}"
    sections = [
        section("The prompt", table((), _facts(described))),
        section(f"{data['rows']:,} rows of {data['source']}", _rows(data)),
        *(section(f"{name} decides {made['decides']}", choice(name, made, data))
          for name, made in data["choices"].items()),
        section("Where it stands", places(data)),
        section("What its vectors tell apart", _vectors(data, planes, projection)),
        section("Nearest words", words(described, data)),
    ]  # fmt: skip
    return page(title, "".join(sections))


# --- sections ---------------------------------------------------------------------------------------------------------


def _facts(described: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    names = (
        "settings",
        "init",
        "task",
        "readout",
        "scores",
        "seed",
        "soft_tokens",
        "numbers_per_token",
        "enters",
        "alarms",
    )
    for name in names:
        yield name.replace("_", " "), short(described[name])


def _rows(data: Mapping[str, Any]) -> str:
    scored = "" if data["accuracy"] is None else f" Accuracy {data['accuracy']:.4f}."
    told = f"Told apart {GROUPED[data['grouped_by']]}.{scored}"
    if data["grouped_by"] == "all":
        told = "The task has no classes."
    sizes = [(name, f"{n:,}") for name, n in zip(data["classes"], data["rows_by_class"], strict=True)]
    return paragraph(told) + table(("class", "rows"), sizes)


def choice(name: str, made: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """What a choice decided, of `show.describe_rows`."""
    told = f"Entropy on these rows: {made['share']:.0%} of log({made['options']}), the most there can be."
    if not made["trained"]:
        told += " The choice is a control: it is not trained, and drawn while the prompt is tuned."
    curve = [(event["step"], event["share"][name]) for event in data["training"] if name in event["share"]]
    pictures = ""
    if curve:
        pictures += figure("entropy by step of the tuning, as a share of the most there can be", drawing.curve, curve)
    shown = commonest(data["rows_by_class"], HEATED)
    names, weights = [data["classes"][c] for c in shown], [made["weights"][c] for c in shown]
    told_weights = f"mean weight of each option ({made['decides']}) by class{_of(shown, data)}"
    pictures += figure(told_weights, drawing.heat, names, weights, made["first"])
    columns = ("class", *(str(made["first"] + i) for i in range(made["options"])))
    numbers = [(data["classes"][c], *(f"{w:.3f}" for w in own)) for c, own in enumerate(made["weights"])]
    return paragraph(told) + pictures + folded("the numbers", table(columns, numbers))


def places(data: Mapping[str, Any]) -> str:
    """Where the prompt stands in the rows, of `show.describe_rows`."""
    made = ""
    for what, counts in (("soft tokens before the input", data["before"]), ("soft tokens in all", data["lengths"])):
        if counts is None:
            made += paragraph("No soft token stands in the row.")
            continue
        known = [value for value in range(len(counts[0])) if any(own[value] for own in counts)]
        if len(known) == 1:
            made += paragraph(f"{what}: {known[0]} in every row.")
            continue
        shown = commonest(data["rows_by_class"], COUNTED)
        names, own = [data["classes"][c] for c in shown], [counts[c] for c in shown]
        made += figure(f"rows by {what}, by class{_of(shown, data)}", drawing.bars, names, own, what)
        rows = [(name, *(f"{n:,}" for n in values)) for name, values in zip(data["classes"], counts, strict=True)]
        made += folded("the numbers", table(("class", *(str(v) for v in range(len(counts[0])))), rows))
    return made


def _vectors(data: Mapping[str, Any], planes: "Sequence[tuple[str, Plane, list[int]]]", projection: str) -> str:
    if data["separation"] is None:
        return paragraph("The prompt's vectors are the same for every row, or the rows are of one class.")
    shown = commonest(data["rows_by_class"], len(COLOURS))
    marks = list(zip(FORMS, COLOURS, strict=True))
    legend = "".join(
        f'<li><span style="color:{colour}">{FORMS[form]}</span> {escape(data["classes"][c])}</li>'
        for c, (form, colour) in zip(shown, marks, strict=False)
    )
    if len(shown) < len(data["classes"]):
        legend += f'<li><span style="color:{OTHERS}">·</span> other classes</li>'
    pictures = ""
    for title, plane, groups in planes:
        axes = "" if plane.shares is None else " ({:.0%} and {:.0%} of the variance)".format(*plane.shares)
        styled = [marks[shown.index(g)] if g in shown else (".", OTHERS) for g in groups]
        told = f"{title}, {PROJECTIONS[projection]}{axes}"
        pictures += figure(told, drawing.points, plane.points.tolist(), styled)
    names = {"prompts": "the prompt's vectors", "inputs": "the mean of the input's embeddings"}
    rows = [
        (names[key], f"{found['accuracy']:.1%}", f"{found['shuffled']:.1%}")
        for key, found in data["separation"].items()
    ]
    by_class = [
        (name, *(percent(found["by_class"][c]) for found in data["separation"].values()))
        for c, name in enumerate(data["classes"])
    ]
    return (
        paragraph(
            "How often a row's nearest neighbour, by all numbers and not only the two drawn, is of its class. Clusters "
            "are seen in any picture: what is not clearly above shuffled labels is chance, and what is not above the "
            f"second line was in the input already. Vectors of {data['sampled']:,} rows."
        )
        + table(("nearest neighbour by", "same class", "shuffled labels"), rows)
        + f'<ul class="legend">{legend}</ul>'
        + pictures
        + folded("by class", table(("class", *names.values()), by_class))
    )


def words(described: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Nearest words, of `show.describe` and `show.describe_rows`, beside those of random vectors."""

    def told(neighbours: Sequence[tuple[str, float]]) -> str:
        return "  ".join(f"{word} {cosine:.2f}" for word, cosine in neighbours)

    if "nearest" in described:
        head, control = "soft token", described["control_cosine"]
        rows = [(str(i), told(own)) for i, own in enumerate(described["nearest"])]
    elif "nearest" in data:
        head, control = "mean prompt of class", data["control_cosine"]
        rows = [(name, told(own)) for name, own in zip(data["classes"], data["nearest"], strict=True)]
    else:
        return paragraph(WORDLESS)
    return table((head, "words by cosine"), rows) + paragraph(
        f"A random vector's nearest word has a cosine of {control:.2f}: what is not clearly above it says nothing."
    )


# --- wording --------------------------------------------------------------------------------------------------------


def _of(shown: Sequence[int], data: Mapping[str, Any]) -> str:
    return f" (the {len(shown)} commonest)" if len(shown) < len(data["classes"]) else ""
