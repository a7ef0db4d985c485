"""A study compares methods on tasks of any kind: their scores are those of the prompts that it kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from promptuary.backbones.load import load
from promptuary.bench import tables
from promptuary.bench.contender import Learned
from promptuary.bench.contenders import contender
from promptuary.bench.grounds import Ground, capped, rows_of, shots
from promptuary.bench.jobs import jobs
from promptuary.bench.plan import Plan
from promptuary.bench.records import worth
from promptuary.bench.run import _asked, run
from promptuary.bench.study import compared, export, finished
from promptuary.data import source
from promptuary.data.source import Row
from promptuary.errors import SettingError
from promptuary.kinds.classification import Answer
from promptuary.material import hold_out, units
from promptuary.report.studies import opened, parts
from promptuary.specs import Run
from promptuary.tuned import open_prompt
from tests.saved import Shelf, lines
from tests.toys import answered, tagged, written
from tests.unit.bench.toy import plan

ROWS = {"text": written, "tagging": tagged, "answering": answered}
CASES = [
    ("text", "t5", "token_f1"), ("tagging", "bert", "entity_f1"), ("answering", "bert", "token_f1"),
    pytest.param("text", "gpt2", "bleu", marks=pytest.mark.slow),
    pytest.param("answering", "gpt2", "exact_match", marks=pytest.mark.slow),
]  # fmt: skip


def study(shelf: Shelf, folder: Path, kind: str, family: str, metric: str, *methods: str, **more: Any) -> Plan:
    files = {part: str(lines(folder / f"own-{part}.jsonl", ROWS[kind](count))) for part, count in SIZES.items()}
    task = {"task": kind, "metric": metric, "max_new_tokens": 4, **files}
    given = task if kind == "text" else {name: value for name, value in task.items() if name != "max_new_tokens"}
    return plan(shelf, folder, *methods, family=family, **{"tasks": {"own": given}, **more})


SIZES = {"train": 24, "selection": 8, "report": 14}


@pytest.mark.parametrize(("kind", "family", "metric"), CASES)
@pytest.mark.long
def test_scores_are_those_of_the_prompt_that_was_kept(
    shelf: Shelf, tmp_path: Path, kind: str, family: str, metric: str
) -> None:
    own, out = study(shelf, tmp_path, kind, family, metric, "majority", "p-tuning-v2", "fine-tuning"), tmp_path / "out"
    assert run(own, out)
    records = {r["method"]: r for r in finished(own, out)}
    assert [*records] == ["majority", "p-tuning-v2", "fine-tuning"]
    given = list(source.rows(str(tmp_path / "own-report.jsonl")))
    kept = open_prompt(out / records["p-tuning-v2"]["prompt"])
    report = records["p-tuning-v2"]["reports"]["own"]
    assert report["scores"][metric] == pytest.approx(kept.evaluate(given)[metric])
    assert [a["prediction"] for a in report["answers"]] == [a["prediction"] for a in kept.outputs(given)]
    for r in records.values():
        assert np.mean(r["reports"]["own"]["contributions"]) == pytest.approx(r["reports"]["own"]["scores"][metric])
    found = compared(own, finished(own, out))
    [table] = found.tables
    assert {line.metric for line in table.lines} == {metric}
    assert all(line.interval is not None and line.majority is None for line in table.lines)
    assert f"| p-tuning-v2 | {100 * report['scores'][metric]:.1f} (1)" in tables.markdown(found)


@pytest.mark.long
def test_a_changed_model_learns_any_kind(shelf: Shelf, tmp_path: Path) -> None:
    rates = {"search": {"space": {"fine-tuning": {"rate": [3e-3]}}, "trials": 2}, "budget": {"steps": 40, "batch": 8}}
    for kind, family, metric in (("text", "t5", "token_f1"), ("tagging", "bert", "entity_f1")):
        place = tmp_path / kind
        place.mkdir()
        own = study(shelf, place, kind, family, metric, "fine-tuning", **rates)
        run(own, place / "out")
        [record] = finished(own, place / "out")
        assert record["reports"]["own"]["scores"][metric] > 0.9, kind


def test_a_study_of_several_kinds_is_reported_on_one_page(shelf: Shelf, tmp_path: Path) -> None:
    """Classes beside tags: the means are over both, the confusion is that of the classes alone."""
    classes = plan(shelf, tmp_path, "frozen").tasks["opinions"].model_dump(exclude_none=True)
    (tmp_path / "tags").mkdir()
    tags = study(shelf, tmp_path / "tags", "tagging", "bert", "entity_f1", "frozen").tasks["own"]
    both = {"opinions": classes, "tags": tags.model_dump(exclude_none=True)}
    own = plan(shelf, tmp_path, "frozen", "p-tuning-v2", tasks=both)
    run(own, tmp_path / "out")
    export(own, tmp_path / "out")
    made = {part.mark: part for part in parts(opened(tmp_path / "out"), explain=False)}
    assert [figure.name.split("-")[1] for figure in made["mistakes"].figures] == ["opinions"]
    assert "tags (entity_f1)" in made["scores"].body


def test_what_was_learned_of_questions_is_asked_of_others_with_other_columns(shelf: Shelf, tmp_path: Path) -> None:
    own = study(shelf, tmp_path, "answering", "bert", "token_f1", "p-tuning-v2")
    other = [{"asked": r["question"], "page": r["context"], "gold": r["answers"]} for r in answered(6)]
    files = {part: str(lines(tmp_path / f"other-{part}.jsonl", other)) for part in SIZES}
    columns = {"task": "answering", "text": "asked", "text_pair": "page", "label": "gold"}
    own = Plan(**{
        **own.model_dump(exclude={"tasks", "transfers"}),
        "tasks": {"own": own.tasks["own"].model_dump(exclude_none=True), "pages": {**files, **columns}},
        "regimes": {"full": {"tasks": ("own",)}}, "transfers": ({"from": "own", "to": "pages"},),
    })  # fmt: skip
    run(own, tmp_path / "out")
    [record] = finished(own, tmp_path / "out")
    kept = open_prompt(tmp_path / "out" / record["prompt"])
    assert record["reports"]["pages"]["scores"]["token_f1"] == pytest.approx(
        kept.evaluate([Row(r, "x") for r in answered(6)])["token_f1"]
    )
    [table] = compared(own, [record]).tables
    assert [(e.source, e.to) for e in table.elsewhere] == [("own", "pages")]


@pytest.mark.parametrize("family", ["gpt2", pytest.param("t5", marks=pytest.mark.slow)])
def test_what_is_asked_without_training_is_what_the_bare_model_writes(
    shelf: Shelf, tmp_path: Path, family: str
) -> None:
    own = study(shelf, tmp_path, "text", family, "token_f1", "zero-shot", "in-context")
    rows, backbone = rows_of(own, "own", "full", 0), load(own.backbones[0])
    place = Ground(
        own.tasks["own"].asked(),
        own.budget_of("own", "full", own.backbones[0]),
        backbone,
        rows.task,
        rows.train,
        rows.selection,
    )
    plain = contender("zero-shot").learn(place, {}, seed=0, folder=tmp_path)
    shown = contender("in-context").learn(place, {"shots": 1}, seed=0, folder=tmp_path)
    told = shown.recipe["demonstrations"]
    assert told in {f"{row.fields['text']} {row.fields['target']}" for row in rows.train}
    for learned, before in ((plain, ""), (shown, f"{told}\n\n")):
        for row, said in zip(rows.selection, learned.answer(rows.selection), strict=True):
            ids = torch.tensor([backbone.tokenizer(f"{before}{row.fields['text']}").input_ids])
            with torch.no_grad():
                made = backbone.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=4,
                    do_sample=False,
                    pad_token_id=backbone.tokenizer.pad_token_id,
                )[0]
            written = made if backbone.shape.encodes else made[ids.shape[1] :]
            assert said.prediction == backbone.tokenizer.decode(written, skip_special_tokens=True).strip()


def test_few_rows_of_what_has_no_classes_are_so_many_in_all(shelf: Shelf, tmp_path: Path) -> None:
    few = {"few": {"each": 12}}
    found = rows_of(study(shelf, tmp_path, "tagging", "bert", "entity_f1", "frozen", regimes=few), "own", "few", 0)
    assert (len(found.train), len(found.selection)) == (12, 12)
    assert len({row.place for row in (*found.train, *found.selection)}) == SIZES["train"]


def test_a_task_that_no_method_learns_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="'own': none of the methods learns tasks of kind 'tagging'"):
        study(shelf, tmp_path, "tagging", "bert", "entity_f1", "bag-of-words", against="bag-of-words")


def test_a_named_task_is_chosen_by_its_loss_and_reports_its_scores(shelf: Shelf, tmp_path: Path) -> None:
    rows = [
        {"mr": f"name[{name}]", "references": [f"{name} is good", f"good is {name}"]} for name in ("box", "lid") * 6
    ]
    files = {part: str(lines(tmp_path / f"e2e-{part}.jsonl", rows)) for part in SIZES}
    files = {part: f"task:e2e_nlg/text-to-text/{part}:{path}" for part, path in files.items()}
    task = {"task": "e2e_nlg/text-to-text", "max_new_tokens": 3, **files}
    own = plan(shelf, tmp_path, "zero-shot", "p-tuning-v2", family="t5", tasks={"own": task}, against="zero-shot")
    run(own, tmp_path / "out")
    found = {r["method"]: r for r in finished(own, tmp_path / "out")}
    assert {m: (r["chosen_by"], r["metric"]) for m, r in found.items()} == {
        "zero-shot": ("mean", "mean"), "p-tuning-v2": ("loss", "mean"),
    }  # fmt: skip
    for r in found.values():
        report = r["reports"]["own"]
        assert set(report["scores"]) >= {"bleu", "chrf", "rouge_l", "mean"}
        assert np.mean(report["contributions"]) == pytest.approx(report["scores"]["mean"])
        assert len(report["contributions"]) == 2  # a text with several references is one
    [table] = compared(own, [*found.values()]).tables
    assert [d.method for d in table.differences] == ["p-tuning-v2"]


def test_a_loss_is_no_score_to_report(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"scored by its loss, which is no score to report\. Write metric = one of"):
        study(shelf, tmp_path, "text", "t5", "loss", "p-tuning-v2")


def test_where_the_loss_chooses_a_named_task_reports_its_own_scores() -> None:
    nothing: Any = None
    place = Ground({"task": "e2e_nlg/text-to-text"}, nothing, nothing, nothing, (), ())
    assert place.run().metric == "loss"
    assert (place.metric, place.metrics) == ("mean", ["bleu", "chrf", "rouge_l"])


def test_labels_of_a_transfer_are_of_classes(shelf: Shelf, tmp_path: Path) -> None:
    own = study(shelf, tmp_path, "tagging", "bert", "entity_f1", "frozen").model_dump(exclude={"transfers"})
    both = {**own["tasks"], "other": own["tasks"]["own"]}
    mapped = {"from": "own", "to": "other", "labels": {"B-place": "B-thing"}}
    with pytest.raises(SettingError, match="labels are classes, and 'own' is of kind 'tagging'"):
        rows_of(Plan(**{**own, "tasks": both, "transfers": (mapped,)}), "own", "full", 0)


def test_kinds_do_not_transfer_to_one_another(shelf: Shelf, tmp_path: Path) -> None:
    own = study(shelf, tmp_path, "tagging", "bert", "entity_f1", "frozen").model_dump(exclude={"transfers"})
    own["tasks"]["opinions"] = plan(shelf, tmp_path, "frozen").tasks["opinions"].model_dump()
    with pytest.raises(SettingError, match="their kinds are 'tagging' and 'classification'"):
        Plan(**{**own, "transfers": ({"from": "own", "to": "opinions"},)})


# --- questions of several rows ---

COPA = [
    {"premise": f"p{i}", "choice": choice, "joined": "so", "group": str(i), "label": str(choice == "a")}
    for i in range(30)
    for choice in ("a", "b")
]


def copa() -> Ground:
    """COPA's choices as rows that are true or false."""
    made = Run(task="copa/classifier", train="-", out="-")
    rows = [Row(row, "x") for row in COPA]
    task = made.kind.task(rows, "copa", made)

    class Read(Ground):
        def reading(self, **more: Any) -> Any:
            return made.kind(
                max_length=None, readout="classifier", pool="mean", words=(("no",), ("yes",)), template=None,
                columns=(), blanks=0, named="copa/classifier",
            )  # fmt: skip

    nothing: Any = None
    return Read({"task": "copa/classifier"}, nothing, nothing, task, rows, rows)


def said(a: float, b: float) -> list[Answer]:
    """That each question's choices are true, with these probabilities."""
    values = [a if row["choice"] == "a" else b for row in COPA]
    return [Answer(str(p > 0.5), max(p, 1 - p), {"False": 1 - p, "True": p}) for p in values]


def test_what_is_reported_of_questions_counts_questions() -> None:
    place = copa()
    told = _asked(place, Learned({}, lambda rows: said(0.9, 0.6)), place.train)
    assert told["scores"]["accuracy"] == 1.0
    record = {"metrics": ["accuracy"], "labels": ["False", "True"], "task": "copa", "reports": {"copa": told}}
    found = worth([record])
    assert found is not None
    assert found.tolist() == [pytest.approx([1.0] * 30)]


def test_of_two_choices_that_are_both_called_true_the_more_probable_one_counts() -> None:
    place = copa()
    assert place.scores(place.train, said(0.9, 0.6))["accuracy"] == 1.0
    assert place.scores(place.train, said(0.6, 0.9))["accuracy"] == 0.0
    assert place.contributions(place.train, said(0.9, 0.6)) == pytest.approx([1.0] * 30)


def test_a_question_of_several_rows_is_drawn_and_held_out_as_a_whole() -> None:
    made, rows = Run(task="copa/classifier", train="-", out="-"), [Row(row, "x") for row in COPA]
    for part in (capped(rows, made, 15), *hold_out(rows, "label", 0.3, made.unit)):
        assert {len(own) for own in units(part, "group")} == {2}
    for part in shots(rows, made.kind.task(rows, "copa", made), 7, 0, made.unit):
        assert {len(own) for own in units(part, "group")} == {2}
        assert len(part) == 14
    assert len(capped(rows, made, 15)) == 14
    assert len(capped(rows, made, 59)) == 58  # a single question is left out
    assert len(capped(rows, made, 1)) == 2  # one question at least


KNOWN = {
    "classification": ([{"text": "a", "label": x} for x in "yxx"], "x"),
    "text": ([{"text": "a", "target": x} for x in ("no", "yes", "yes")], "yes"),
    "tagging": ([{"tokens": ["a", "b"], "tags": tags} for tags in (["O", "O"], ["B-x", "O"])], ["O", "O", "O"]),
    "answering": (
        [{"question": "q", "context": "a b", "answers": [{"text": x, "answer_start": 0}]} for x in ("b", "a", "a")], "a"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KNOWN)
def test_what_knows_nothing_says_the_commonest_answer(kind: str) -> None:
    made, wanted = KNOWN[kind]
    rows, run = [Row(fields, f"row {i}") for i, fields in enumerate(made)], Run(train="-", out="-", task=kind)
    say = run.kind.commonest(run.kind.task(rows, "own", run), rows)
    answer = say(Row({"text": "z", "tokens": ["x", "y", "z"], "question": "?", "context": "c"}, "asked"))
    if kind == "classification":
        assert (answer.label, answer.probability) == ("x", pytest.approx(2 / 3))
        assert answer.probabilities == {"x": pytest.approx(2 / 3), "y": pytest.approx(1 / 3)}
    else:
        assert answer.prediction == wanted


def test_methods_that_know_no_words_have_no_cell(shelf: Shelf, tmp_path: Path) -> None:
    own = study(shelf, tmp_path, "tagging", "bert", "entity_f1", "bag-of-words", "zero-shot", "adapters", "frozen")
    assert {job.about["method"] for job in jobs(own)} == {"adapters", "frozen"}
    assert contender("adapters").kinds > contender("bag-of-words").kinds
    text = study(shelf, tmp_path, "text", "t5", "token_f1", "frozen", "prompt-tuning", against="prompt-tuning")
    assert {job.about["method"] for job in jobs(text)} == {"prompt-tuning"}  # without a prompt nothing is trained


def test_a_cap_just_below_the_number_of_rows_leaves_a_row_out() -> None:
    made = Run(train="-", out="-")
    rows = [Row({"text": f"t{i}", "label": "ab"[i % 2]}, "x") for i in range(100)]
    assert len(capped(rows, made, 99)) == 99
    assert capped(rows, made, 99) == capped(rows, made, 99)
    assert len(capped(rows, made, 50)) == 50
    assert sum(row.fields["label"] == "a" for row in capped(rows, made, 50)) == 25
