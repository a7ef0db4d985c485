"""What a tuned prompt is near to and where it stands, for a report: what `promptuary show` says of it, in short."""

from collections.abc import Sequence
from pathlib import Path

from promptuary import page
from promptuary.data.source import Row
from promptuary.inspecting import inspect
from promptuary.markup import paragraph
from promptuary.show import describe, describe_rows
from promptuary.tuned import open_prompt


def explained(folder: Path, rows: Sequence[Row] = ()) -> str:
    """Nearest words with those of random vectors, places and choices of the prompt in a folder.

    Arguments:
        rows: to run it over; without rows only what is the same for all of them is told.

    Raises:
        PromptuaryError: for a prompt, or a backbone, that cannot be opened.
    """
    tuned = open_prompt(folder)
    described = describe(tuned)
    told = f"{described['soft_tokens']} soft tokens of {described['numbers_per_token']:,} numbers each enter by "
    parts = [paragraph(f"{told}{described['enters']}.")]
    data = {} if not rows else describe_rows(tuned, inspect(tuned, rows)) | {"training": []}
    if "nearest" in described or "nearest" in data:
        parts.append(page.words(described, data))
    elif described["soft_tokens"]:
        parts.append(paragraph(page.WORDLESS))
    if data:
        parts += [
            paragraph(f"What it does with {len(rows):,} rows that select:"),
            page.places(data),
            *(
                paragraph(f"{name} decides {made['decides']}.") + page.choice(name, made, data)
                for name, made in data["choices"].items()
            ),
        ]
    return "".join(parts)
