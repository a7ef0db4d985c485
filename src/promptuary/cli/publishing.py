"""Prompts on the Hugging Face hub: `publish`, `fetch`."""

from pathlib import Path
from typing import Annotated

import typer

from promptuary.cli.terminal import Folder, app, err, out, told

Repository = Annotated[str, typer.Argument(help="On the hub: USER/NAME.")]


@app.command()
@told
def publish(
    folder: Folder,
    repository: Repository,
    base_model: Annotated[
        str | None, typer.Option(help="The hub's name of the frozen model, where that is a folder of this machine.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="As the hub names it: apache-2.0.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is seen by its owner alone.")] = False,
) -> None:
    """Put a prompt on the Hugging Face hub, with a card.

    Who writes is who `hf auth login` or HF_TOKEN says. The card and the manifest tell the names of the files of rows,
    not their paths.
    """
    from promptuary.manifests import manifest_in

    manifest_in(folder)

    from promptuary.publishing import publish as put

    out.print(put(folder, repository, base_model=base_model, license=license, private=private))


@app.command()
@told
def fetch(
    repository: Repository,
    folder: Annotated[Path, typer.Option("--out", help="Where the prompt goes.")],
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit (default: the newest).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")] = False,
) -> None:
    """Take a prompt from the Hugging Face hub."""
    from promptuary.publishing import fetch as take

    manifest = take(repository, folder, revision=revision, overwrite=overwrite)
    err.print(f"{manifest.method} for {manifest.backbone} -> {folder}")
