"""Which method suits these rows? A search within a time, an estimate on rows that no choice has seen, and a prompt.

The rows are divided once (`own_rows`). Candidates compete by successive halving (`halving`), scored on the rows that
select. When the time is over, what is best there is chosen, and the sealed rows are opened, once: for the choice, and
for those of the frozen head, bag of words, the untrained model and the commonest answer that know the kind of task.
Everything that finished is in the store; the same call goes on.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich.console import Console

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import device_of, load
from promptuary.bench.contender import Learned
from promptuary.bench.contenders import contender
from promptuary.bench.grounds import Ground
from promptuary.bench.halving import THIRD, Candidate, Pace, entrants, last_steps, promoted
from promptuary.bench.hurry import Hurried, OutOfTimeError
from promptuary.bench.outcomes import OUTCOMES, choose, outcome_of
from promptuary.bench.own_rows import Divided, divide
from promptuary.bench.question import CONTROL, Question, candidates
from promptuary.bench.records import digest
from promptuary.bench.result import doubtful, result_of
from promptuary.bench.sections import Budget
from promptuary.bench.store import WORK, Entry, Job, Store
from promptuary.errors import SettingError
from promptuary.files import write
from promptuary.methods import METHODS
from promptuary.precision import Precision, fastest, unwise
from promptuary.train import state, team

NOTES, RESULT, PROMPT, DOUBTFUL = "search.json", "result.json", "prompt", "doubtful.jsonl"
EPOCHS, STEPS = 20, 200  # of the last runs: more epochs, if they have so many steps, are not worth anybody's time
PILOT, SAMPLE = 8, 32  # steps and rows by which the pace is measured
HELD = 0.03  # share of the budget that is kept for what nobody foresaw
SHARE = 0.1  # of the budget, that measuring the pace may take; and bag of words beyond its default
STUDY = "compare"


def recommend(question: Question, *, console: Console | None = None, began: float | None = None) -> dict[str, Any]:
    """Search, choose, estimate, and keep the prompt; returns the result that is also written to the folder.

    Arguments:
        began: `time.monotonic()` when the budget began to run; now, if not given.

    Raises:
        SettingError: for a folder that holds the answer to another question.
        DataError: for rows that cannot be divided.
    """
    team.alone("A search")
    began = time.monotonic() if began is None else began
    candidates(question.methods, question.task.kind)  # a misspelt one is told before anything is written
    search = _Search(question, began, Hurried(console))
    try:
        with search.board:
            return search.answer()
    finally:
        search.close()


@dataclass(eq=False)
class _Search:
    """One search: what it has loaded, and the time."""

    question: Question
    began: float
    board: Hurried
    store: Store = field(init=False)
    parts: Divided = field(init=False)
    backbone: Backbone = field(init=False)
    paces: dict[str, Pace] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        q = self.question
        mark = digest(q.rows) + f" {q.backbone} {sorted(q.asked.items())} {q.batch} {q.seed} {q.methods} {q.precision}"
        place = q.out / NOTES
        self.notes = json.loads(place.read_bytes()) if place.is_file() else {"question": mark, "spent_s": 0.0}
        if self.notes["question"] != mark:
            raise SettingError(
                f"{q.out} holds a search on other rows, columns or settings. Choose another folder (--out), or remove "
                "it."
            )
        self.parts = divide(q.rows, q.task, q.seed)
        self.store = Store(q.out)

    def close(self) -> None:
        """Keep how much of the budget is spent."""
        self.store.close()
        spent = self.notes["spent_s"] + time.monotonic() - self.began
        write(self.question.out / NOTES, json.dumps({**self.notes, "spent_s": spent}).encode())

    @property
    def left(self) -> float:
        """Seconds until the search must end, so that what comes behind it ends with the budget."""
        whole = (1 - HELD) * self.question.budget_s - self.notes.get("end_s", 0.0) - self.notes["spent_s"]
        return float(whole - (time.monotonic() - self.began))

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.parts.train) // self.question.batch)

    @property
    def precision(self) -> Precision:
        """Of the frozen model, decided once for a search."""
        found: Precision = self.notes["precision"]
        return found

    # --- the whole ---

    def answer(self) -> dict[str, Any]:
        known = self.question.out / RESULT
        if known.is_file():
            found: dict[str, Any] = json.loads(known.read_bytes())
            return found
        q = self.question
        where = device_of("auto")
        if "precision" not in self.notes:
            self.notes["precision"] = fastest(where) if q.precision == "auto" else q.precision
        if said := unwise(self.precision, where):
            self.board.says(said)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.backbone = load(q.backbone, dtype=dtype, device=where)
        if not any(entry.opened for entry in self.store.entries()):
            self.baselines()
            self.halve()
        return self.end()

    def baselines(self) -> None:
        """The methods that take seconds and know the kind of task; of bag of words other penalties too, where that
        costs next to nothing.
        """
        kind = self.question.task.kind
        self.run(Candidate("majority"), 0)
        if kind not in contender(CONTROL).kinds:  # then the untrained model is the rival
            self.run(Candidate("zero-shot"), 0)
        began = time.monotonic()
        for c in (10.0, 1.0, 100.0) if kind in contender("bag-of-words").kinds else ():
            if time.monotonic() - began < SHARE / 2 * self.question.budget_s:
                self.run(Candidate("bag-of-words", (("c", c),)), 0)

    def halve(self) -> None:
        """Three rounds, as long as the time lets; what few rows leave of it is for whoever has not run as long."""
        field = candidates(self.question.methods, self.question.task.kind)
        if "steps" not in self.notes:
            pace = self.pilot()
            chosen, steps = entrants(field, self.left, pace, self.epoch)
            self.notes |= {"steps": steps, "entrants": [str(c) for c in chosen]}
        pace, steps = Pace(**self.notes["pace"]), int(self.notes["steps"])
        control = [c for c in field if c.control]
        best = promoted(self.round([c for c in field if str(c) in self.notes["entrants"]], steps, pace))
        second = self.round([*best, *(c for c in control if c not in best)], THIRD * steps, pace)
        winners = promoted(second)[:1] or best[:1]
        final = list(dict.fromkeys([*winners, *control]))
        paces = [self.paces.get(c.method, pace) for c in final]
        longest = last_steps(0.9 * self.left, paces, self.epoch, max(EPOCHS * self.epoch, STEPS))
        if longest > THIRD * steps and "last" not in self.notes:
            self.notes["last"] = longest
        if "last" not in self.notes:
            return
        last = int(self.notes["last"])
        for candidate in final:
            self.run(candidate, last)
        self.round([c for c in field if c not in final], last, pace, one=False)

    def round(
        self, enter: Sequence[Candidate], steps: int, pace: Pace, *, one: bool = True
    ) -> dict[Candidate, tuple[float, float]]:
        """Run candidates for so many steps, those that fit into the time, with `one` the first of them even so; their
        scores and losses.
        """
        scores: dict[Candidate, tuple[float, float]] = {}
        for candidate in enter:
            expected = self.paces.get(candidate.method, pace).run(steps, self.epoch)
            sure = one and candidate is enter[0]
            entry = self.run(candidate, steps) if sure or expected < self.left or self.known(candidate, steps) else None
            if entry is not None and entry.score is not None:
                scores[candidate] = entry.score, (entry.record or {})["scores"]["loss"]
        return scores

    def pilot(self) -> Pace:
        """How long a step, a scoring and a beginning take, by a run that nobody sees; and what the end will take."""
        place, began = self.question.out / "pilot", time.monotonic()
        shutil.rmtree(place, ignore_errors=True)
        self.board.takes("how fast is this machine?")
        self.board.deadline = began + SHARE * self.question.budget_s
        method = contender(self.question.methods[0] if self.question.methods else "p-tuning-v2")
        few = replace(self.ground(PILOT), selection=self.parts.selection[:SAMPLE])
        try:
            method.learn(few, {}, seed=self.question.seed, folder=place, progress=self.board)
        except OutOfTimeError:
            pass  # the steps that were made say how long one takes
        finally:
            shutil.rmtree(place, ignore_errors=True)
        whole = time.monotonic() - began
        step = self.board.step_s(whole)
        # Where none was scored: in a third of the time it is learned in, its way back being twice its way forward.
        row = self.board.score_s(step / self.question.batch / 3 * len(few.selection)) / len(few.selection)
        score, begin = row * len(self.parts.selection), self.board.rest(whole, step)
        self.notes["pace"] = {"step": step, "score": score, "begin": begin}
        self.notes["end_s"] = 2 * (begin + row * self.parts.counts["estimate"]) + score
        return Pace(step, score, begin)

    # --- one run ---

    def ground(self, steps: int) -> Ground:
        q = self.question
        budget = Budget(steps=steps, batch=q.batch, precision=self.precision)
        return Ground(q.asked, budget, self.backbone, q.task, self.parts.train, self.parts.selection)

    def job(self, candidate: Candidate, steps: int) -> Job:
        about = {
            "task": self.question.task.name, "regime": "own", "backbone": self.question.backbone,
            "method": candidate.method, "seed": self.question.seed,
        }  # fmt: skip
        return Job(STUDY, f"{candidate}, {steps} steps", about, steps, STUDY, dict(candidate.settings))

    def entry(self, job: Job) -> Entry:
        self.store.add([job], {})
        return next(e for e in self.store.entries() if e.job.name == job.name)

    def known(self, candidate: Candidate, steps: int) -> bool:
        """Whether this run is finished."""
        name = self.job(candidate, steps).name
        return any(e.finished for e in self.store.entries() if e.job.name == name)

    def run(self, candidate: Candidate, steps: int) -> Entry | None:
        """One run of a candidate; `None` where its time was over."""
        entry, began = self.entry(self.job(candidate, steps)), time.monotonic()
        if entry.finished:
            return entry
        self.board.takes(f"{candidate}, {steps} steps" if steps else str(candidate))
        self.board.deadline = began + max(self.left, 0.0) if steps else float("inf")
        with self.store.claim(entry) as mine:
            if not mine:
                raise SettingError(
                    f"{self.question.out}: another process is at work in this folder. Wait for it to end."
                )
            try:
                learned = self.learned(candidate, steps)
            except OutOfTimeError:
                return None
            except tuple(OUTCOMES) as error:
                outcome = outcome_of(error)
                self.store.fail(entry, {"sentence": str(error)}, outcome)
                self.board.says(f"{candidate}: {outcome}. {error}")
                return self.store.now(entry)
            self.measure(candidate, time.monotonic() - began)
            metric = self.ground(steps).metric
            told = {
                "settings": dict(candidate.settings), "scores": dict(learned.scores), "cost": vars(learned.cost),
                "alarms": dict(learned.alarms), "recipe": dict(learned.recipe), "curve": list(learned.curve),
            }  # fmt: skip
            self.store.finish(entry, told, float(learned.scores[metric]))
            self.board.says(f"{self.board.title}: {metric} {learned.scores[metric]:.3f} on the rows that select")
        return self.store.now(entry)

    def learned(self, candidate: Candidate, steps: int) -> Learned:
        """What a candidate learned; free where it was learned before."""
        place = self.store.work(self.job(candidate, steps))
        return contender(candidate.method).learn(
            self.ground(steps), dict(candidate.settings), seed=self.question.seed, folder=place, progress=self.board
        )

    def measure(self, candidate: Candidate, wall_s: float) -> None:
        """Remember how fast a method is here."""
        if self.board.steps:
            step = self.board.step_s(wall_s)
            score = self.board.score_s(self.notes.get("pace", {}).get("score", 0.0))
            self.paces[candidate.method] = Pace(step, score, self.board.rest(wall_s, step))

    # --- the end ---

    def end(self) -> dict[str, Any]:
        """Choose, open the sealed rows, and write down what they say."""
        q, trials = self.question, [e for e in self.store.entries() if e.score is not None]
        prompts = [e for e in trials if e.job.about["method"] in METHODS]
        final = self.entry(Job(STUDY, "the estimate", self.job(Candidate("choice"), 0).about, None, STUDY, {}))
        decided = {opened["chosen"] for opened in final.opened}  # by a process that died while it estimated
        chosen = choose([e for e in prompts if not decided or e.trial.number in decided])
        if chosen is None:
            raise SettingError(
                f"No prompt was tuned to its end within {q.budget_s:.0f} s. Give more time (--budget); what was begun "
                "goes on."
            )
        rivals = {"prompt": chosen}
        for name in ("frozen", "bag-of-words", "zero-shot", "majority"):
            own = choose([e for e in trials if e.job.about["method"] == name])
            if own is not None and own is not chosen:
                rivals[name] = own
        learned = {name: self._recalled(entry) for name, entry in rivals.items()}
        with self.store.claim(final) as mine:
            if not mine:
                raise SettingError(f"{q.out}: the estimate was made, but {RESULT} is missing. Choose another folder.")
            permit = self.store.permit(final, chosen.trial.number, time.strftime("%Y-%m-%dT%H:%M:%S"))
            rows = self.parts.estimate.open(permit)
            answers = {name: own.answer(rows) for name, own in learned.items()}
            lines = doubtful(q.task, self.parts.selection, learned["prompt"])
            write(q.out / DOUBTFUL, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
            told = result_of(q, self.ground(1), self.store.entries(), rivals, rows, answers)
            spent = self.notes["spent_s"] + time.monotonic() - self.began
            result = {
                **told,
                "precision": self.precision,
                "rows": self.parts.counts,
                "spent_s": spent,
                "doubtful": len(lines),
            }
            self._keep(chosen)
            write(q.out / RESULT, json.dumps(result, indent=1, ensure_ascii=False).encode())
            self.store.finish(final, {"result": RESULT}, chosen.score or 0.0)
        for left in (q.out / WORK).rglob(state.NAME):  # what training goes on from: not before the answer is kept
            left.unlink()
        return result

    def _recalled(self, entry: Entry) -> Learned:
        self.board.deadline = float("inf")
        candidate = Candidate(str(entry.job.about["method"]), tuple(entry.job.settings.items()))
        return self.learned(candidate, int(entry.job.number or 0))

    def _keep(self, chosen: Entry) -> None:
        """Put the chosen prompt where it is used from."""
        place = self.question.out / PROMPT
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.store.work(chosen.job), place, ignore=shutil.ignore_patterns(state.NAME))
