"""Draw docs/pictures/flow.svg: `python docs/pictures/draw.py`. The boxes are the library's own parts, in order."""

from pathlib import Path

BOXES = (
    ("text", "a row of your data", "#f5f5f5"),
    ("Wording", "text to token ids", "#e3f2fd"),
    ("Instance", "ids, mask, embeddings", "#f5f5f5"),
    ("Generator", "makes the soft tokens", "#fff3e0"),
    ("Prompt", "[batch, length, width]", "#f5f5f5"),
    ("Placement", "where they stand", "#fff3e0"),
    ("Injection", "how they enter", "#fff3e0"),
    ("Backbone", "frozen, never touched", "#e8eaf6"),
    ("Readout", "loss or prediction", "#fff3e0"),
)
WIDTH, HEIGHT, GAP, COLUMNS = 190, 64, 34, 3


def place(i: int) -> tuple[int, int]:
    """Top left corner of box i: rows run left to right, then right to left."""
    row, column = divmod(i, COLUMNS)
    column = column if row % 2 == 0 else COLUMNS - 1 - column
    return 20 + column * (WIDTH + GAP), 20 + row * (HEIGHT + GAP)


def arrow(i: int) -> str:
    """The arrow from box i to box i + 1."""
    (x, y), (u, v) = place(i), place(i + 1)
    if y == v:
        start, end = (x + WIDTH, u) if u > x else (x, u + WIDTH)
        return f'<line x1="{start}" y1="{y + HEIGHT // 2}" x2="{end}" y2="{v + HEIGHT // 2}" class="arrow"/>'
    middle = x + WIDTH // 2
    return f'<line x1="{middle}" y1="{y + HEIGHT}" x2="{middle}" y2="{v}" class="arrow"/>'


def box(i: int) -> str:
    """Box i with its two lines of text."""
    (x, y), (name, what, colour) = place(i), BOXES[i]
    middle = x + WIDTH // 2
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{colour}" stroke="#607d8b"/>'
        f'<text x="{middle}" y="{y + 27}" class="name">{name}</text>'
        f'<text x="{middle}" y="{y + 48}" class="what">{what}</text>'
    )


def draw() -> str:
    """The whole picture as SVG."""
    rows = -(-len(BOXES) // COLUMNS)
    width, height = 40 + COLUMNS * WIDTH + (COLUMNS - 1) * GAP, 40 + rows * HEIGHT + (rows - 1) * GAP
    style = (
        ".name{font:600 16px sans-serif;text-anchor:middle}.what{font:13px sans-serif;text-anchor:middle;fill:#455a64}"
        ".arrow{stroke:#455a64;stroke-width:2;marker-end:url(#head)}"
    )
    head = (
        '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#455a64"/></marker>'
    )
    arrows = "".join(arrow(i) for i in range(len(BOXES) - 1))
    boxes = "".join(box(i) for i in range(len(BOXES)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="The flow from text to prediction"><style>{style}</style><defs>{head}</defs>'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{arrows}{boxes}</svg>\n'
    )


if __name__ == "__main__":
    Path(__file__).with_name("flow.svg").write_text(draw(), encoding="utf-8")
