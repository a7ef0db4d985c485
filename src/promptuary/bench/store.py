"""Where a study keeps what it knows: optuna's tables in one SQLite file, which any number of processes fill.

One of optuna's studies holds a task under a regime on a backbone. Its trials are of two sorts: the trials of each
method's search, whose value is the score on the rows that select, and one final trial for every seed, which reports.
All of them are written down, waiting, before anything runs, under names that say everything they are made of; so the
same plan finds its own, a longer one adds to them, and another one does not mix with them.

A trial is run by whoever holds its lock. Locks are the operating system's: those of a process that was killed are free
again, and its trial is taken up by the next one. A finished trial is never touched.
"""

import fcntl
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptuary.bench.sealed import Permit
from promptuary.bench.space import Space, distribution, quietly
from promptuary.errors import CheckpointError, SettingError

FILE, LOCKS, WORK = "study.sqlite", "locks", "work"
PATIENCE_S = 60.0  # how long a process waits for another one's writing
JOB, RECORD, OUTCOME, STARTS, OPENED = "job", "record", "outcome", "starts", "opened"


@dataclass(frozen=True)
class Job:
    """Something to be run: a trial of a search, or the final trial of a cell.

    Arguments:
        study: the optuna study it belongs to: task, regime and backbone.
        name: says everything it is made of, by a hash; equal names are equal jobs.
        about: plain values that a record repeats: task, regime, backbone, method, seed.
        number: of the trial in its search; `None` is the final trial.
        search: the name of the search whose trials a final one chooses from.
        settings: what is tried; empty is the default.
    """

    study: str
    name: str
    about: Mapping[str, Any]
    number: int | None
    search: str
    settings: Mapping[str, Any]

    @property
    def final(self) -> bool:
        return self.number is None

    @property
    def title(self) -> str:
        """The name without its hash."""
        return self.name.partition(" #")[0]

    @property
    def key(self) -> str:
        """The name as that of a file."""
        return hashlib.blake2b(self.name.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, eq=False)
class Entry:
    """A job as it stands in the store."""

    job: Job
    trial: FrozenTrial

    @property
    def finished(self) -> bool:
        return self.trial.state.is_finished()

    @property
    def record(self) -> Mapping[str, Any] | None:
        """What came out of it, or `None`."""
        found: Mapping[str, Any] | None = self.trial.user_attrs.get(RECORD) if self.finished else None
        return found

    @property
    def score(self) -> float | None:
        """Of the rows that select; `None` where it is not finished, or failed."""
        return self.trial.value if self.trial.state == TrialState.COMPLETE else None

    @property
    def starts(self) -> int:
        """How often it was begun: more than once where a process was killed."""
        return int(self.trial.user_attrs.get(STARTS, 0))

    @property
    def opened(self) -> Sequence[Mapping[str, Any]]:
        """Each opening of the rows that report, with the trial that was chosen."""
        found: Sequence[Mapping[str, Any]] = self.trial.user_attrs.get(OPENED, ())
        return found


class _Connection(sqlite3.Connection):
    """A connection that writes to a log beside the file: readers do not wait, and a commit does not wait for the disk.

    What a process wrote stays when it is killed; a power cut may cost the last moments, never the file.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")


class Store:
    """The store of one study.

    Arguments:
        folder: holds the file, the locks, and what trials leave (`work`).

    Raises:
        CheckpointError: for a file that is no store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
        with self._alone(), quietly():  # of two processes that begin, one makes the tables
            try:
                path = (folder / FILE).absolute()
                self.storage = optuna.storages.RDBStorage(
                    f"sqlite:///{path}",
                    engine_kwargs={"connect_args": {"timeout": PATIENCE_S, "factory": _Connection}},
                )
            except Exception as error:  # sqlalchemy's, of many kinds
                raise CheckpointError(
                    f"{folder / FILE} could not be opened as the store of a study "
                    f"({(str(error).splitlines() or [type(error).__name__])[0]}). Choose another folder (--out)."
                ) from error

    def close(self) -> None:
        """Give the file back."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    # --- what there is to do ---

    def add(self, jobs: Sequence[Job], spaces: Mapping[str, Space]) -> None:
        """Write down jobs that are not there yet.

        Arguments:
            spaces: of each method, for optuna's own tools.
        """
        with self._alone(), quietly():
            known = {entry.job.name for entry in self.entries()}
            studies: dict[str, optuna.Study] = {}
            for job in jobs:
                if job.name not in known:
                    study = studies.setdefault(job.study, self._study(job.study))
                    study.add_trial(_waiting(job, spaces.get(str(job.about["method"]), {})))

    def entries(self) -> list[Entry]:
        """All jobs as they stand now."""
        found = []
        for study in self.storage.get_all_studies():  # addressed by numbers that its frozen values keep private
            for trial in self.storage.get_all_trials(study._study_id, deepcopy=False):
                found.append(Entry(Job(study=study.study_name, **trial.user_attrs[JOB]), trial))
        return found

    def now(self, entry: Entry) -> Entry:
        """An entry as it stands now."""
        return Entry(entry.job, self.storage.get_trial(entry.trial._trial_id))

    def work(self, job: Job) -> Path:
        """The folder of what a job leaves."""
        return self.folder / WORK / job.key

    # --- running one job ---

    @contextmanager
    def claim(self, entry: Entry) -> Iterator[bool]:
        """Whether this process has the job to itself, and it is not finished."""
        with (self.folder / LOCKS / entry.job.key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            state = self.now(entry).trial.state
            if state.is_finished():
                yield False
                return
            number = entry.trial._trial_id
            self.storage.set_trial_state_values(number, TrialState.RUNNING)  # of a dead process it is that already
            self.storage.set_trial_user_attr(number, STARTS, self.now(entry).starts + 1)
            yield True

    def permit(self, entry: Entry, chosen: int, when: str) -> Permit:
        """Leave to open the rows that report on a cell: written down before it is given.

        A process may die between the opening and its result; the same choice may then be reported on again, and the
        record tells how often.

        Raises:
            SettingError: for a cell that has its result, or was opened for another choice.
        """
        known = self.now(entry)
        others = [o for o in known.opened if o["chosen"] != chosen]
        if known.finished or others:
            of = f"trial {others[0]['chosen']}" if others else "its result"
            raise SettingError(
                f"The rows that report on {entry.job.name} were opened before, for {of}. They are opened once: what "
                "was chosen after seeing them would not be honest."
            )
        opened = [*known.opened, {"chosen": chosen, "when": when}]
        self.storage.set_trial_user_attr(entry.trial._trial_id, OPENED, opened)
        return Permit(entry.job.name, chosen)

    def finish(self, entry: Entry, record: Mapping[str, Any], score: float) -> None:
        """Keep what came out of a job."""
        self._keep(entry, record, "finished")
        self.storage.set_trial_state_values(entry.trial._trial_id, TrialState.COMPLETE, [score])

    def fail(self, entry: Entry, record: Mapping[str, Any], outcome: str) -> None:
        """Keep that a job can have no result: `diverged`, `memory`, `refused`. That is an outcome, and stays."""
        self._keep(entry, record, outcome)
        self.storage.set_trial_state_values(entry.trial._trial_id, TrialState.FAIL)

    def _keep(self, entry: Entry, record: Mapping[str, Any], outcome: str) -> None:
        self.storage.set_trial_user_attr(entry.trial._trial_id, RECORD, json.loads(json.dumps(record)))
        self.storage.set_trial_user_attr(entry.trial._trial_id, OUTCOME, outcome)

    def _study(self, name: str) -> optuna.Study:
        return optuna.create_study(study_name=name, storage=self.storage, direction="maximize", load_if_exists=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process is in here."""
        with (self.folder / LOCKS / "store").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _waiting(job: Job, space: Space) -> FrozenTrial:
    """A trial that waits. Its settings stand as optuna's parameters, under the method's name, as far as they are of the
    space (the default may lie outside of it).
    """
    method = job.about["method"]
    known = {name: distribution(space[name]) for name in job.settings if name in space}
    values = {name: job.settings[name] for name in known}
    plain = {name: getattr(job, name) for name in ("name", "about", "number", "search", "settings")}
    return create_trial(
        state=TrialState.WAITING,
        params={f"{method}.{name}": value for name, value in values.items()},
        distributions={f"{method}.{name}": way for name, way in known.items()},
        user_attrs={
            JOB: json.loads(json.dumps({k: dict(v) if isinstance(v, Mapping) else v for k, v in plain.items()}))
        },
    )
