"""What all commands share: the application, its options, how it prints, and how a mistake is told."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console

if TYPE_CHECKING:
    from promptuary.backbones.backbone import Backbone as LoadedBackbone
    from promptuary.tuned import Tuned

P = ParamSpec("P")
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Soft prompts for frozen language models: tune, keep and use them.",
)
# What is printed is data: a label may be called "[red]" or ":cat:".
out, err = (
    Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True) for stderr in (False, True)
)

LEAD = os.environ.get("RANK", "0") == "0"  # of several processes (torchrun) the first one talks

COUNTED = ("trained numbers", "touched", "active")  # see promptuary.counts

Data = Annotated[
    str,
    typer.Option(
        help="A .jsonl/.csv/.tsv/.parquet file, sample:NAME/SPLIT, task:NAME/SPLIT, or a data set's name:split."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
Backbone = Annotated[
    str | None, typer.Option(help="A short name, a folder, or a name on the hub (default: the one it was tuned on).")
]
Device = Annotated[str | None, typer.Option(help="Where the frozen model runs: cpu, cuda, cuda:1 (default auto).")]
Int8 = Annotated[
    str | None,
    typer.Option(
        "--int8", help="Round the frozen model's linear layers to eight bits: weights, or dynamic (inputs too)."
    ),
]
Folder = Annotated[Path, typer.Argument(help="The folder that `tune --out` wrote.")]
Shown = Annotated[Path, typer.Argument(help="The folder that `tune --out` or `pretrain --out` wrote.")]


def main() -> None:
    """Run the command line; a mistake of the user is one sentence and exit code 2."""
    app()


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Print the library's errors as a sentence and leave with 2; an interrupt leaves with 130."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from promptuary.errors import PromptuaryError

        try:
            command(*args, **kwargs)
        except PromptuaryError as error:
            tell(str(error))
            raise typer.Exit(2) from error
        except BrokenPipeError:  # whoever read our output has left: no mistake, and nobody to tell
            raise
        except OSError as error:
            tell(f"{error.filename}: {error.strerror}." if error.filename else f"{error}.")
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            tell("interrupted; what was saved is whole. The same command goes on from there.")
            raise typer.Exit(130) from error

    return wrapped


def tell(sentence: str) -> None:
    """Say what is wrong, in red, where errors go."""
    err.print(f"promptuary: {sentence}", style="red")


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def opened(folder: Path, backbone: str | None, device: str | None) -> "Tuned":
    """The prompt in a folder, on a model that is loaded now."""
    from promptuary.manifests import manifest_in

    manifest_in(folder)  # a folder that is not there is told before torch is imported

    from promptuary.tuned import open_prompt

    return open_prompt(folder, backbone=backbone, device=device or "auto")


def ready(tuned: "Tuned") -> "Tuned":
    """The prompt for many rows: compiled, where it then says the same. In bfloat16 other sums are rounded."""
    return tuned.compiled() if tuned.precision == "fp32" else tuned


def rounded(backbone: "LoadedBackbone", how: str | None) -> None:
    """Round the model, where that is asked for, and tell by how much it says something else."""
    if how is not None:
        gap = backbone.to_int8(how)
        err.print(f"{backbone.name} in eight bits ({how}): its last states on a trial text are {gap:.1%} off.")


def _version(asked: bool) -> None:
    if asked:
        from promptuary import __version__

        print(f"promptuary {__version__}")
        raise typer.Exit


@app.callback()
def _promptuary(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...
