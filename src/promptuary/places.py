"""The folder of a run: what may be begun in it, how a run there starts anew, what is removed then."""

from collections.abc import Callable, Sequence
from pathlib import Path

from promptuary import checkpoint, pretrained
from promptuary.errors import CheckpointError
from promptuary.files import no_file
from promptuary.manifests import MANIFEST, holds_generator
from promptuary.train import record, state
from promptuary.train.fit import Result
from promptuary.train.team import ALONE, Team

# What a run leaves when it ends: a tuned prompt, a pre-trained generator.
ENDS = (MANIFEST, pretrained.MANIFEST)


def content(folder: Path) -> str:
    """The hash of the numbers of a tuned prompt or a generator: it is the same wherever the folder moves.

    Raises:
        CheckpointError: when the folder holds neither, or a damaged one.
    """
    if holds_generator(folder):
        return pretrained.read(folder).hashes[pretrained.TENSORS]
    return checkpoint.read_manifest(folder).hashes[checkpoint.PROMPT]


def check(folder: Path, overwrite: bool, *, run: Path | None = None) -> None:
    """Refuse, before any long work, a place where a run can neither begin nor go on.

    Arguments:
        run: the folder of the run whose result goes here, where that is another one.

    Raises:
        SettingError: for a folder that is a file, or lies below one.
        CheckpointError: for one that holds a result without the state of its run, unless it may be overwritten.
    """
    no_file(folder)
    if any((folder / name).exists() for name in ENDS) and not ((run or folder) / state.NAME).exists() and not overwrite:
        raise CheckpointError(
            f"{folder} holds a prompt without the state of its run ({state.NAME}), so nothing tells whether this is "
            "the same run. Choose another folder, or start anew (overwrite=True, --overwrite)."
        )


def vacant(folder: Path, overwrite: bool) -> None:
    """Refuse a place for a result that comes from no run.

    Raises:
        SettingError: as `check`.
        CheckpointError: for one that holds a result or a run, unless it may be overwritten.
    """
    check(folder, overwrite=True)
    if any((folder / name).exists() for name in (*ENDS, state.NAME)) and not overwrite:
        raise CheckpointError(
            f"{folder} holds a prompt or a run already. Choose another folder, or replace it (--overwrite)."
        )


def emptied(folder: Path, overwrite: bool) -> None:
    """Make a place free for a result that comes from no run; raises as `vacant`."""
    vacant(folder, overwrite)
    clear(folder)


def fitted(
    folder: Path, overwrite: bool, fit: Callable[[], Result], *, results: Sequence[Path] = (), team: Team = ALONE
) -> Result:
    """What `fit` arrives at in this folder, going on from the state there; another run's is erased with `overwrite`.

    Arguments:
        results: other folders that hold what the run leaves when it ends. team: the processes that all call this.

    Raises:
        CheckpointError: for the state of another run, or a damaged one, that may not be overwritten.
    """
    if overwrite and team.led(lambda: not (folder / state.NAME).exists()):
        team.led(lambda: clear(folder, *results))
    try:
        return fit()
    except CheckpointError:  # the folder's run is another or damaged; what else can be wrong was looked at before
        if not overwrite:
            raise
        team.led(lambda: clear(folder, *results))
        return fit()


def clear(*folders: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    left = (*ENDS, checkpoint.PROMPT, checkpoint.TRAINING, pretrained.TENSORS, state.NAME, record.NAME)
    for folder in folders:
        for name in left:
            (folder / name).unlink(missing_ok=True)
