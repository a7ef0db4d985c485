"""What is shown of a prompt on rows adds up, and its page is whole by itself, whatever names the user gave."""

import json
import math
import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from promptuary.inspecting import inspect
from promptuary.page import PROJECTIONS
from promptuary.show import describe_rows
from promptuary.train import record
from promptuary.tuned import open_prompt
from tests.laws.checks import TYPICAL
from tests.saved import Shelf, done, lines, opinions, refused, valid
from tests.unit.test_cli import quickly
from tests.unit.test_inspecting import some, stirred

OUTSIDE = re.compile(r"//|https?:|@import|<script|<link|<image|<iframe|src=|data:|xmlns", re.IGNORECASE)
HOSTILE = {"good": '<script>alert("$x_1$")</script>', "bad": "_&amp; \u202e 悪い </svg>"}


class Whole(HTMLParser):
    """Every element that is opened is closed, and the text of the page."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.names: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []
        assert len(self.names) == len(set(self.names))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.names += [value for name, value in attributes if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.names += [value for name, value in attributes if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(prompt: Path, data: Path, *more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done("show", prompt, "--data", data, "--json", *more))
    return found


@pytest.mark.parametrize("name", [*TYPICAL, "dp-position-length", "dp-deep", "dp-bank"])
def test_the_sums_over_classes_are_the_rows(shelf: Shelf, name: str) -> None:
    prompt = shelf.prompt("bert", name)
    found = shown(prompt, shelf.dev)
    data = found.pop("data")
    assert found == json.loads(done("show", prompt, "--json"))
    assert data["classes"] == ["bad", "good"]
    assert data["rows_by_class"] == [3, 3]
    assert data["rows"] == data["sampled"] == 6
    assert 0 <= data["accuracy"] <= 1
    for counts in (data["before"], data["lengths"]):
        assert counts is None or [sum(own) for own in counts] == [3, 3]
    for choice in data["choices"].values():
        assert [sum(own) for own in choice["taken"]] == [3, 3]
        assert [sum(own) for own in choice["weights"]] == pytest.approx([1, 1], abs=1e-5)
        assert all(0 <= nats <= math.log(choice["options"]) + 1e-5 for nats in choice["entropy"])
        assert len(choice["weights"][0]) == choice["options"]
    noted = [event for event in record.read(prompt / record.NAME) if event["event"] == "choices"]
    assert data["training"] == noted
    assert bool(noted) == bool(data["choices"])
    assert (data["separation"] is None) == (not name.startswith(("ipt", "idpg", "dp-vector")))


def test_counts_by_class_are_those_of_a_loop(shelf: Shelf) -> None:
    tuned, given = stirred(open_prompt(shelf.prompt("bert", "dp-position-length"))), some(12)
    seen = inspect(tuned, given)
    told = describe_rows(tuned, seen)
    assert seen.before is not None
    for c, name in enumerate(told["classes"]):
        own = [i for i, row in enumerate(given) if row.fields["label"] == name]
        for value, count in enumerate(told["before"][c]):
            assert count == sum(int(seen.before[i]) == value for i in own)
        for value, count in enumerate(told["lengths"][c]):
            assert count == sum(int(seen.lengths[i]) == value for i in own)
        for place, choice in told["choices"].items():
            decided = seen.choices[place]
            for option in range(choice["options"]):
                weights = [float(decided.weights[i, option]) for i in own]
                assert choice["taken"][c][option] == sum(int(decided.weights[i].argmax()) == option for i in own)
                assert choice["weights"][c][option] == pytest.approx(sum(weights) / len(own), abs=1e-5)
            assert choice["entropy"][c] == pytest.approx(sum(float(decided.entropy[i]) for i in own) / len(own))
    said = tuned.predict(given)
    right = sum(a.label == row.fields["label"] for a, row in zip(said, given, strict=True))
    assert told["accuracy"] == pytest.approx(right / 12)


def test_rows_without_a_label_are_told_and_compared_with_nothing(shelf: Shelf, tmp_path: Path) -> None:
    bare = [{k: v for k, v in row.items() if k != "label" or row["id"] < 4} for row in opinions(6)]
    found = shown(shelf.prompt("bert", "ipt-lstm"), lines(tmp_path / "d.jsonl", bare))["data"]
    assert (found["classes"], found["rows_by_class"]) == (["bad", "good", "(no label)"], [2, 2, 2])
    assert found["separation"]["prompts"]["by_class"][2] is None
    unknown = [{"text": row["text"]} for row in bare]
    found = shown(shelf.prompt("bert", "ipt-lstm"), lines(tmp_path / "u.jsonl", unknown))["data"]
    assert (found["grouped_by"], found["accuracy"]) == ("predicted", None)
    assert sum(found["rows_by_class"]) == 6


@pytest.mark.parametrize(
    ("name", "projection"),
    [
        *product(["dp-vector", "ipt-lstm"], PROJECTIONS),
        *product(["dp-position-length", "p-tuning-v2", "frozen"], ["pca"]),  # without vectors there is no plane
    ],
)
def test_the_page_is_whole_by_itself(shelf: Shelf, tmp_path: Path, name: str, projection: str) -> None:
    prompt, place = shelf.prompt("bert", name), tmp_path / "page.html"
    printed = done("show", prompt, "--data", shelf.dev, "--html", place, "--projection", projection)
    assert "6 rows of" in printed
    assert f"The pictures are in {place}." in printed
    page = place.read_text(encoding="utf-8")
    inside = page.replace(str(shelf.place), "")
    assert OUTSIDE.findall(inside) == []
    valid(page)
    assert "prefers-color-scheme:dark" in page
    assert "width=device-width" in page
    found = Whole(page)
    pictures = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert all(ET.fromstring(picture).get("aria-label") for picture in pictures)
    assert "#010203" not in page
    wanted = {"dp-position-length": 4, "dp-vector": 4, "ipt-lstm": 2, "p-tuning-v2": 0, "frozen": 0}[name]
    assert len(pictures) >= wanted
    assert ("shuffled labels" in found.text) == (name in ("dp-vector", "ipt-lstm"))
    assert list(tmp_path.iterdir()) == [place]


def test_the_same_prompt_and_rows_have_the_same_page(shelf: Shelf, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        done("show", shelf.prompt("bert", "dp-vector"), "--data", shelf.dev, "--html", tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_names_of_users_are_text_and_nothing_else(shelf: Shelf, tmp_path: Path) -> None:
    data = lines(tmp_path / "<i>d.jsonl", [{**row, "label": HOSTILE[row["label"]]} for row in opinions(16)])
    out = tmp_path / "out"
    done(*shelf.options("bert", "dp-position-length", out), "--train", data, "--validation", data, "--set", "pool=2")
    tuned = stirred(open_prompt(out))
    from promptuary.page import write_page
    from promptuary.show import describe

    seen = inspect(tuned, some_of(data))
    described = describe(tuned) | {"data": {"source": str(data), **describe_rows(tuned, seen), "training": []}}
    write_page(tmp_path / "page.html", described, seen)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<i>" not in page
    assert "<script" not in page
    found = Whole(page)
    assert all(name in found.text for name in HOSTILE.values())
    assert found.seen <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "section", "p", "div", "table", "tr",
        "th", "td", "ul", "li", "span", "details", "summary", "figure", "figcaption",
        "svg", "g", "path", "text", "defs", "use", "clippath", "rect", "tspan",
    }  # fmt: skip
    assert all(name in done("show", out, "--data", data) for name in HOSTILE.values())


def some_of(data: Path) -> Any:
    from promptuary.data.source import rows

    return rows(str(data))


def test_many_classes_are_drawn_by_the_commonest(shelf: Shelf, tmp_path: Path) -> None:
    rows = [{"text": f"{row['text']} {row['id']}", "label": f"class {row['id'] % 12}"} for row in opinions(40)]
    data, out = lines(tmp_path / "d.jsonl", rows), tmp_path / "out"
    done(*shelf.options("bert", "dp-vector", out), "--train", data, "--validation", data)
    printed = done("show", out, "--data", data, "--html", tmp_path / "page.html")
    assert "The 4 commonest classes; --json has the other 8 too." in printed
    page = Whole((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "other classes" in page.text
    assert len(shown(out, data)["data"]["choices"]["generator.choice"]["weights"]) == 12


def test_the_curve_of_a_choice_is_that_of_its_record(shelf: Shelf, tmp_path: Path) -> None:
    options = shelf.options("bert", "dp-vector", tmp_path / "out")
    done(*options, "--epochs", 3)
    [*curve] = shown(tmp_path / "out", shelf.dev)["data"]["training"]
    assert [event["step"] for event in curve] == [2, 4, 6]
    printed = done("show", tmp_path / "out", "--data", shelf.dev)
    first, last = (event["share"]["generator.choice"] for event in (curve[0], curve[-1]))
    assert re.search(rf"in steps 2 to 6, of log\(4\): {first:.0%} [▁-█]{{3}} {last:.0%}", printed)
    (tmp_path / "out" / record.NAME).unlink()
    assert shown(tmp_path / "out", shelf.dev)["data"]["training"] == []


def test_half_a_line_of_a_record_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"event": "config"}\n{"event": "st')
    assert record.read(tmp_path / "r.jsonl") == [{"event": "config"}]
    assert record.read(tmp_path / "nosuch.jsonl") == []


def test_what_cannot_work_is_told_before_a_model_is_loaded(shelf: Shelf, tmp_path: Path) -> None:
    prompt, data = shelf.prompt("bert", "dp-vector"), shelf.dev
    told = quickly(
        tmp_path,
        ["show", prompt, "--html", "page.html"],
        ["show", prompt, "--data", "nosuch.jsonl"],
        ["show", prompt, "--data", data, "--html", "nosuch/page.html"],
        ["show", prompt, "--data", data, "--html", ".", "--json"],
        ["show", prompt, "--data", data, "--html", "page.html", "--projection", "tsn"],
        ["show", prompt, "--data", data, "--projection", "tsne"],
        ["evaluate", prompt, "--data", data, "--decode", "ranks"],
        ["predict", prompt, "--input", data, "--output", "out.jsonl", "--decode", "ranks"],
    )
    sentences = [
        "--data FILE",
        "nosuch.jsonl",
        "nosuch/page.html",
        ". is no file",
        "Did you mean 'tsne'?",
        "--html FILE",
    ]
    sentences += 2 * ["Did you mean 'rank'?"]
    for (code, out, err), sentence in zip(told, sentences, strict=True):
        assert (code, out) == (2, "")
        assert sentence in err


def test_without_matplotlib_it_is_told_what_to_install(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    prompt = shelf.prompt("bert", "dp-vector")
    told = refused("show", prompt, "--data", shelf.dev, "--html", tmp_path / "page.html")
    assert told.endswith("Write: pip install 'promptuary[show]'.")
    assert "6 rows of" in done("show", prompt, "--data", shelf.dev)


def test_a_user_s_settings_of_matplotlib_stay_and_change_nothing(shelf: Shelf, tmp_path: Path) -> None:
    import matplotlib

    prompt = shelf.prompt("bert", "dp-vector")
    done("show", prompt, "--data", shelf.dev, "--html", tmp_path / "a.html")
    with matplotlib.rc_context({"font.size": 31.0, "svg.fonttype": "path", "lines.linewidth": 7.0, "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        done("show", prompt, "--data", shelf.dev, "--html", tmp_path / "b.html")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_other_kinds_of_models_are_shown_too(shelf: Shelf, tmp_path: Path, family: str) -> None:
    prompt = shelf.prompt(family, "dp-position-instance")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    printed = done("show", prompt, "--data", shelf.dev, "--html", tmp_path / "page.html")
    assert torch.equal(torch.get_rng_state(), state)
    assert "injection.placement.choice decides the position, in soft tokens before the input" in printed
    Whole((tmp_path / "page.html").read_text(encoding="utf-8"))
