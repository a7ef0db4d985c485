"""Writing a report: the page, the same tables as Markdown and LaTeX, and the figures as files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptuary import drawing
from promptuary.bench import tables
from promptuary.bench.recommend import RESULT
from promptuary.errors import DataError
from promptuary.files import write
from promptuary.report import page, searches, studies
from promptuary.report.page import Part

REPORT = "report.html"


@dataclass(frozen=True)
class Report:
    """A report, ready to be written.

    Arguments:
        title, lead: of the page. parts: its parts. markdown, latex: its tables as text.
    """

    title: str
    lead: str
    parts: Sequence[Part]
    markdown: str
    latex: str

    def html(self) -> bytes:
        """The page."""
        return page.render(self.title, self.lead, self.parts).encode(errors="replace")

    def figures(self) -> dict[str, Callable[[], dict[str, bytes]]]:
        """What draws the files of each figure, by its name."""
        return {figure.name: figure.files for part in self.parts for figure in part.figures}


def report(folder: Path, *, explain: bool = True) -> Report:
    """The report of what is in a folder of `promptuary bench` or `promptuary compare`.

    Arguments:
        explain: whether prompts are opened to be explained, which loads their backbones.

    Raises:
        DataError: for a folder that is neither.
        SettingError: where matplotlib is missing.
    """
    drawing.check("The report's pictures")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Name the folder of `promptuary compare` or `promptuary bench`.")
    if (folder / RESULT).is_file():
        search = searches.opened(folder)
        title, captioned = f"Which method suits {folder.resolve().name}?", search.captioned
        said = "\n".join(f"- {sentence}" for sentence in search.advice.words)
        markdown = f"# {title}\n\n{said}\n\n{tables.markdown_table(*captioned)}\n"
        made = searches.parts(search, explain=explain)
        return Report(title, searches.lead(search), made, markdown, f"{tables.latex_table(*captioned)}\n")
    study = studies.opened(folder)
    made = studies.parts(study, explain=explain)
    markdown, latex = tables.markdown(study.found), tables.latex(study.found)
    return Report(study.found.name, studies.lead(study), made, markdown, latex)


def save(made: Report, out: Path, *, markdown: Path | None = None, latex: Path | None = None,
         figures: Path | None = None) -> list[Path]:  # fmt: skip
    """Write the page, and what else is asked for; returns what was written.

    Raises:
        TrainingError: where a file cannot be written.
    """
    files = {out: made.html()}
    files |= {path: text.encode() for path, text in ((markdown, made.markdown), (latex, made.latex)) if path}
    for draw in made.figures().values() if figures else ():
        files |= {figures / name: data for name, data in draw().items()}  # type: ignore[operator]
    for path, data in files.items():
        write(path, data)
    return list(files)
