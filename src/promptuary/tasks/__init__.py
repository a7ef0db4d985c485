"""Every task that has a name. To add one: write its wordings into the file of its family, name a new file here.

`promptuary tune --task boolq` asks a named task in its first wording, `--task boolq/cloze` in another; the name fills
in rows, columns, template, read-out and metric, and whatever else is stated wins. Rows are `task:boolq/train`, or
`task:boolq/cloze/train` where the wording has rows of its own (see `promptuary.data.source`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from promptuary.errors import DataError, SettingError, nearest
from promptuary.tasks import entities, sentences, superglue, texts
from promptuary.tasks.named import NamedTask, Wording

FAMILIES = (superglue, sentences, texts, entities)
FEW = "fewglue_"  # 32 rows of each task of SuperGLUE (Schick and Schütze 2021)
TASKS: Mapping[str, NamedTask] = MappingProxyType(
    {task.name: task for family in FAMILIES for task in family.TASKS}
    | {
        FEW + task.name: replace(task, name=FEW + task.name, folders=(FEW + task.name,), hub=None)
        for task in superglue.TASKS
    }
)
FILES: Mapping[str, tuple[str, ...]] = MappingProxyType(  # the official SuperGLUE folders say `val`
    {"validation": ("validation", "val", "dev")}
)

__all__ = ["FAMILIES", "TASKS", "NamedTask", "Wording", "chosen", "find", "located"]


def find(name: str) -> NamedTask:
    """The task of that name.

    Raises:
        SettingError: for an unknown name, with the nearest known one.
    """
    if name not in TASKS:
        raise SettingError(f"There is no task {name!r}. {nearest(name, TASKS)}")
    return TASKS[name]


def chosen(name: str) -> tuple[NamedTask, Wording]:
    """The task and the wording that `boolq/cloze` names; without a wording the first.

    Raises:
        SettingError: for an unknown task, or a wording that it has not.
    """
    of, slash, how = name.partition("/")
    task = find(of)
    if slash and how not in task.wordings:
        raise SettingError(f"Task {of!r} has no wording {how!r}. {nearest(how, task.wordings)}")
    return task, task.wordings[how] if slash else next(iter(task.wordings.values()))


def located(task: NamedTask, split: str, data: str | None, suffixes: Sequence[str]) -> str:
    """Where the rows of a split are: a file in one of the task's folders in `data`, else the hub's name for it.

    Arguments:
        data: a folder of folders (the environment's PROMPTUARY_DATA); `None` asks the hub.
        suffixes: of files that can be read.

    Raises:
        DataError: where neither has it.
    """
    if data is not None:
        places = [Path(data).expanduser() / folder for folder in task.folders]
        names = [name + suffix for name in FILES.get(split, (split,)) for suffix in suffixes]
        for path in (place / name for place in places for name in names):
            if path.is_file():
                return str(path)
        there = sorted(p.name for place in {*places} if place.is_dir() for p in place.iterdir())
        raise DataError(
            f"task:{task.name}/{split}: there is no {split}.jsonl (.csv, ...) in {places[0]} (PROMPTUARY_DATA), which "
            + (f"has {', '.join(there)}." if there else "is no folder.")
            + f" Name a file: task:{task.name}/{split}:FILE"
        )
    if task.hub is None:
        raise DataError(
            f"task:{task.name}/{split}: set PROMPTUARY_DATA to the folder that has {task.folders[0]!r}, "
            f"or name a file: task:{task.name}/{split}:FILE"
        )
    return f"{task.hub}:{split}"
