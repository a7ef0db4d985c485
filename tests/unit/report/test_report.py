"""What a report says is what the records say, counted anew here; its page is whole, safe and the same every time."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from lxml import html as parser

from promptuary import markup
from promptuary.bench import recommend, study, tables
from promptuary.bench.run import run
from promptuary.report import figures, series, studies
from promptuary.report.page import STYLE
from promptuary.report.writing import Report, report, save
from tests.saved import Shelf, done, opinions, refused, valid
from tests.saved import lines as lines_of
from tests.unit.bench.toy import plan
from tests.unit.report import made
from tests.unit.report.made import HOSTILE, LABELS, METHODS, TASKS, TRUE, accuracy, said
from tests.unit.test_page import Whole

OUTSIDE = re.compile(r"https?:|@import|<link|<image|<iframe|\bsrc=|data:|xmlns|url\((?!#)", re.IGNORECASE)
SEEDS = {method: (0,) if method == "majority" else (0, 1, 2) for method in METHODS}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def of_study(place: Path) -> Report:
    return report(made.study(place / "study"))


@pytest.fixture(scope="module")
def of_search(place: Path) -> Report:
    return report(made.search(place / "search"))


@pytest.fixture(scope="module")
def page(of_study: Report) -> Any:
    return parser.fromstring(of_study.html().decode())


@pytest.fixture(scope="module")
def found(of_search: Report) -> Any:
    return parser.fromstring(of_search.html().decode())


def text(node: Any) -> str:
    return " ".join(node.text_content().split())


def table(section: Any, nth: int = 0) -> tuple[list[str], dict[str, list[Any]]]:
    """Heads, and the cells of each line by its name."""
    own = section.xpath(".//table")[nth]
    lines = {text(row.xpath("./th")[0]): row.xpath("./td") for row in own.xpath("./tbody/tr")}
    return [text(head) for head in own.xpath("./thead//th")], lines


def part(page: Any, mark: str) -> Any:
    [own] = page.xpath(f"//section[@id='{mark}']")
    return own


def test_every_score_is_that_of_its_records_and_leads_to_them(page: Any) -> None:
    heads, lines = table(part(page, "scores"))
    assert heads == ["method", "sst2 (accuracy)", "mr (accuracy)", "mean"]
    assert list(lines) == list(METHODS)
    for method, cells in lines.items():
        means = []
        for task, cell in zip(TASKS, cells, strict=False):
            own = [accuracy(said(method, task, seed)) for seed in SEEDS[method]]
            means.append(mean(own))
            spread = f" ± {100 * stdev(own):.1f}" if len(own) > 1 else ""
            assert text(cell.xpath(".//a")[0]) == f"{100 * mean(own):.1f}{spread}"
            assert float(cell.get("data-v")) == pytest.approx(mean(own))
            low, high = map(float, re.findall(r"\[(.*), (.*)\]", text(cell))[0])
            assert low <= 100 * mean(own) <= high
            [target] = page.xpath(f"//*[@id='{cell.xpath('.//a')[0].get('href')[1:]}']")
            assert text(target.xpath("./summary")[0]) == f"{method} on {task}, full, minilm"
            _, seeds = table(target)
            assert [text(c[1]) for c in seeds.values()] == [f"accuracy {score:.4f}" for score in own]
        assert text(cells[-1]) == f"{100 * mean(means):.1f}"


def test_the_best_of_each_task_is_set_in_bold(page: Any) -> None:
    _, lines = table(part(page, "scores"))
    bold = {(method, i) for method, cells in lines.items() for i, c in enumerate(cells) if c.xpath(".//strong")}
    assert bold == {("prompt-tuning", 0), ("prompt-tuning", 1)}


def test_gains_and_costs_are_those_of_the_records(page: Any) -> None:
    _, gains = table(part(page, "scores"), 1)
    assert set(gains) == set(METHODS) - {"frozen"}
    for method, cells in gains.items():
        seeds = (0, 1, 2)
        own = [
            accuracy(said(method, task, s if method != "majority" else 0)) - accuracy(said("frozen", task, s))
            for task in TASKS
            for s in seeds
        ]
        assert text(cells[0]) == f"{100 * mean(own):+.1f}"
    _, costs = table(part(page, "prices"))
    assert text(costs["p-tuning-v2"][0]) == "61,440"
    assert text(costs["p-tuning-v2"][2]) == "245.8 kB"
    assert text(costs["p-tuning-v2"][3]) == "31.0"
    assert text(costs["p-tuning-v2"][6]) == "3.00"


def test_every_record_is_there_with_a_command_that_prints_it(place: Path, page: Any) -> None:
    lines = (place / "study" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    told = {}
    for cell in part(page, "records").xpath("./details"):
        told |= {int(number): cells for number, cells in table(cell)[1].items()}
    assert sorted(told) == list(range(1, len(lines) + 1))
    for number, cells in told.items():
        assert text(cells[0]) == f"{json.loads(lines[number - 1])['seed']}"
    assert "diverged: The loss is no number: <i>nan</i>." in text(part(page, "records"))
    [command] = part(page, "records").xpath("./details[2]//code/text()")
    printed = subprocess.run(command.split("|")[0], shell=True, cwd=place / "study", capture_output=True, check=True)
    assert json.loads(printed.stdout) == json.loads(lines[3])


def test_the_words_name_the_best_its_lead_and_what_to_distrust(page: Any) -> None:
    words = text(part(page, "words"))
    own = [accuracy(said("prompt-tuning", task, seed)) for task in TASKS for seed in range(3)]
    assert f"prompt-tuning has the highest mean score: {100 * mean(own):.1f} % on 2 tasks." in words
    assert "It gains +12.0 points (95 % interval" in words
    assert "over frozen. The interval leaves out 0; for a test over tasks, 2 are too few" in words
    assert "7,680 trained numbers, 30.7 kB kept for a task, 31.0 s of training and 3.00 ms a row" in words
    doubts = text(part(page, "doubts"))
    assert "27 of 32 results are there so far" in doubts
    assert "With one seed" not in doubts  # only the majority has one, which draws nothing
    assert "1 of 1 seeds: diverged (p-tuning-v2 on sst2)" in doubts


def test_mistakes_are_counted_from_the_answers(page: Any) -> None:
    _, shares = table(part(page, "mistakes"), 0)
    _, counts = table(part(page, "mistakes"), 1)
    for true, label in enumerate(LABELS):
        pairs = [(t, s) for seed in range(3) for t, s in zip(TRUE, said("prompt-tuning", "sst2", seed), strict=True)]
        own = [sum(t == str(true) and s == str(c) for t, s in pairs) for c in range(2)]
        assert [text(cell) for cell in counts[label]] == [f"{own[0]}", f"{own[1]}", "0"]
        called = sum(s == str(true) for _, s in pairs)
        precision, recall = own[true] / called, own[true] / sum(own)
        f1 = 2 * precision * recall / (precision + recall)
        expected = [f"{sum(own)}", *(f"{100 * share:.1f}" for share in (precision, recall, f1))]
        assert [text(cell) for cell in shares[label]] == expected


def test_curves_are_means_over_seeds_and_their_ends() -> None:
    [first, *_] = series.learning(made.records(), "sst2")
    assert first.at == (10.0, 20.0, 30.0)
    assert first.middle == pytest.approx((0.62, 0.72, 0.82))
    assert first.low == pytest.approx((0.6, 0.7, 0.8))
    assert first.high == pytest.approx((0.64, 0.74, 0.84))


def test_scores_by_rows_are_in_the_order_of_the_rows(place: Path, of_study: Report) -> None:
    known = studies.opened(place / "study")
    [tuning, frozen] = series.shots(known.found.tables, known.records, "sst2", "minilm")
    assert (tuning.name, frozen.name) == ("prompt-tuning", "frozen")
    assert tuning.at == (4.0, 250.0)
    assert tuning.middle == pytest.approx((0.9, 0.9))
    assert series.shots(known.found.tables, known.records, "mr", "minilm") == []


def test_the_transfer_matrix_has_what_was_asked_and_no_more(place: Path, of_study: Report) -> None:
    known = studies.opened(place / "study")
    learned, asked, values = series.transfer(known.found.tables[0], "frozen")
    assert (learned, asked) == (["sst2"], ["mr"])
    assert values[0][0] == pytest.approx(mean(accuracy(said("frozen", "mr", seed)) for seed in range(3)))


def test_what_is_not_in_the_records_is_left_out(place: Path, page: Any) -> None:
    marks = page.xpath("//section/@id")
    assert marks == [
        "words", "doubts", "scores", "prices", "learning", "mistakes", "shots", "transfer", "together", "protocol",
        "records",
    ]  # fmt: skip
    assert [link[1:] for link in page.xpath("//nav//a/@href")] == marks
    folder = made.study(place / "bare")
    kept = [r for r in made.records() if r["regime"] == "full" and r["task"] == "mr" and r["method"] == "majority"]
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
    bare = parser.fromstring(report(folder).html().decode())
    assert bare.xpath("//section/@id") == ["words", "doubts", "scores", "prices", "mistakes", "protocol", "records"]


def test_the_estimates_and_trials_of_a_search_are_those_of_its_result(found: Any) -> None:
    _, lines = table(part(found, "scores"))
    for name, own in made.result()["estimates"].items():
        right = accuracy(own["said"])
        assert text(lines[name][1]) == f"{100 * right:.1f}"
    assert text(lines["frozen"][4]) == f"{100 * (accuracy(said('prompt-tuning', 'sst2', 0)) - 0.8):+.1f}"
    _, trials = table(part(found, "trials"))
    assert text(trials["prompt-tuning, rate 0.1, 30 steps"][3]) == "0.8123"
    assert text(trials["p-tuning-v2, 30 steps"][3]) == "It <diverged>."
    assert "2 rows are <copies>." in text(part(found, "words"))
    _, doubtful = table(part(found, "doubtful"))
    assert [text(cell) for cell in doubtful["a.csv:7"]] == [
        "bad",
        HOSTILE,
        "0.9900",
        "<u>fine</u> \N{REPLACEMENT CHARACTER}",
    ]


@pytest.mark.parametrize("which", ["of_study", "of_search"])
def test_the_page_is_whole_safe_and_asks_for_nothing(which: str, request: pytest.FixtureRequest) -> None:
    own: Report = request.getfixturevalue(which)
    page = own.html().decode()
    assert OUTSIDE.findall(page) == []
    valid(page)
    whole = Whole(page)
    assert HOSTILE in whole.text
    assert {"b", "i", "u", "hand", "copies", "diverged"} & whole.seen == set()
    tree = parser.fromstring(page)
    assert tree.get("lang") == "en"
    ranks = [int(h.tag[1]) for h in tree.iter("h1", "h2", "h3", "h4")]
    assert ranks[0] == 1
    assert all(after - before <= 1 and after > 1 for before, after in pairwise(ranks))
    ids = set(tree.xpath("//@id"))
    assert len(ids) == len(tree.xpath("//@id"))
    assert {link[1:] for link in tree.xpath("//a/@href")} <= ids
    for picture in re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL):
        drawn = ET.fromstring(picture)
        assert drawn.get("aria-label") or drawn.get("aria-hidden") == "true"
    assert all(head.get("scope") for head in tree.xpath("//thead//th"))
    assert all(wide.get("tabindex") == "0" and wide.get("aria-label") for wide in tree.xpath("//*[@role='region']"))


def test_the_script_of_the_page_is_the_only_one_that_may_run(of_study: Report) -> None:
    tree = parser.fromstring(of_study.html().decode())
    [script] = tree.xpath("//script")
    [policy] = tree.xpath("//meta[@http-equiv]/@content")
    mark = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{mark}'"


def test_the_same_records_have_the_same_bytes(place: Path, of_search: Report) -> None:
    again = report(place / "search")
    assert again.html() == of_search.html()
    assert again.figures()["learning"]() == of_search.figures()["learning"]()


def test_markdown_and_latex_hold_the_cells_of_the_page(of_study: Report, page: Any) -> None:
    _, lines = table(part(page, "scores"))
    for method, cells in lines.items():
        shown = [text(cell) for cell in cells]
        assert f"| {method} | {' | '.join(shown)} |" in of_study.markdown.splitlines()
        printed = " & ".join(cell.replace("±", r"$\pm$").replace("[", "{[}") for cell in shown)
        assert rf"{method} & {printed} \\" in of_study.latex


def test_marks_of_latex_and_markdown_are_printed_as_they_are() -> None:
    body = (["", "a|b"], [[tables.Cell(r"50 % \x_1 {~^#&$} <b> [5pt]"), tables.Cell("1 | 2", 1.0)]])
    printed = tables.latex_table("", body)
    assert (
        r"50 \% \textbackslash{}x\_1 \{\textasciitilde{}\textasciicircum{}\#\&\$\} \textless{}b\textgreater{} {[}5pt] "
        r"& 1 | 2 \\" in printed
    )
    assert r"| 1 \| 2 |" in tables.markdown_table("", body)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_readers_need(scheme: str) -> None:
    whole = markup.STYLE + STYLE
    rules = re.findall(r"^:root\{(.*?)\}" if scheme == "light" else r"dark\)\{:root\{(.*?)\}", whole, re.MULTILINE)
    colours = dict(re.findall(r"--(\w+):(#\w+)", ";".join(rules)))
    for name in ("text", "soft", "link"):
        for ground in ("ground", "card"):
            light, dark = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(colour: str) -> float:
    """Of WCAG 2, from `#rgb` or `#rrggbb`."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_methods_differ_in_form_and_colour_and_in_more_than_colour() -> None:
    known = figures.styles(map(str, range(36)))
    assert len({(own.form, own.colour) for own in known.values()}) == 36
    first = list(known.values())[:6]
    assert len({own.form for own in first}) == 6


def test_the_command_writes_the_page_the_tables_and_the_figures(place: Path, of_search: Report, tmp_path: Path) -> None:
    more = ("--markdown", tmp_path / "t.md", "--latex", tmp_path / "t.tex", "--figures", tmp_path / "figures")
    printed = done("report", place / "search", "--out", tmp_path / "r.html", *more)
    assert (tmp_path / "r.html").read_bytes() == of_search.html()
    assert (tmp_path / "t.md").read_text(encoding="utf-8") == of_search.markdown
    assert (tmp_path / "t.tex").read_text(encoding="utf-8") == of_search.latex
    names = sorted(p.name for p in (tmp_path / "figures").iterdir())
    assert names == sorted(f"{name}.{form}" for name in of_search.figures() for form in ("svg", "pdf"))
    ET.parse(tmp_path / "figures" / "learning.svg")
    assert (tmp_path / "figures" / "learning.pdf").read_bytes().startswith(b"%PDF")
    assert str(tmp_path / "figures" / "learning.svg") in printed


def test_compare_ends_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = lines_of(tmp_path / "rows.jsonl", opinions(40))

    def searched(question: Any, **_: Any) -> dict[str, Any]:
        made.search(question.out)
        return made.result()

    monkeypatch.setattr(recommend, "recommend", searched)
    assert "Use prompt-tuning" in done("compare", data, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").is_file()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "out" / "report.html").unlink()
    assert "Use prompt-tuning" in done("compare", data, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_a_study_of_real_runs_explains_its_best_prompt(shelf: Shelf, tmp_path: Path) -> None:
    asked = plan(shelf, tmp_path, "prompt-tuning", "dp-length", "majority", against="majority")
    assert run(asked, tmp_path / "out")
    study.export(asked, tmp_path / "out")
    page = parser.fromstring(report(tmp_path / "out").html().decode())
    told = text(part(page, "prompts"))
    assert "A random vector's nearest word has a cosine of" in told
    assert "What it does with 8 rows that select" in told
    assert "prompts" not in parser.fromstring(report(tmp_path / "out", explain=False).html()).xpath("//section/@id")
    [kept] = {r["prompt"] for r in studies.opened(tmp_path / "out").records if r["method"] == "dp-length"}
    assert f"{kept}" in text(part(page, "records"))


def test_a_folder_that_is_no_study_is_told_what_to_name(tmp_path: Path) -> None:
    assert "no such folder" in refused("report", tmp_path / "nosuch")
    assert "has no plan.json" in refused("report", tmp_path)
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    assert "is no result of `promptuary compare`" in refused("report", tmp_path)
    folder = made.study(tmp_path / "study")
    (folder / "records.jsonl").write_text("", encoding="utf-8")
    assert "nothing is finished yet" in refused("report", folder)


def test_a_report_is_written_whole(of_search: Report, tmp_path: Path) -> None:
    assert save(of_search, tmp_path / "a.html") == [tmp_path / "a.html"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
