"""Many tasks over HTTP: `serve`, `gateway`, `replicas`, and `key` for who may ask."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from promptuary.cli.terminal import Device, Int8, app, err, rounded, told

if TYPE_CHECKING:
    from promptuary.serve.process import Front

Store = Annotated[Path, typer.Argument(help="A folder of such folders as `tune --out` writes: STORE/NAME.")]
Host = Annotated[str, typer.Option(help="Where it listens.")]
Port = Annotated[int, typer.Option(min=0, max=65535)]
Keys = Annotated[
    Path | None, typer.Option(help="API keys and what they may ask (see `promptuary key`); without them anyone may.")
]
Admin = Annotated[
    Path | None,
    typer.Option("--admin-token-file", help="Its first line is the key that may add and remove tasks."),
]
Imports = Annotated[Path | None, typer.Option(help="A folder whose folders the administrator may add by their names.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option(help="Of the frozen model's weights; auto is the faster one (what changes: docs/serve.md)."),
]
Anyone = Annotated[bool, typer.Option("--open", help="Listen beyond this machine without keys.")]
Queue = Annotated[int, typer.Option(min=1, help="Rows that may wait; beyond it the answer is 429.")]
Held = Annotated[int, typer.Option(min=1, help="MiB of prompts in memory; beyond it the longest unasked ones go.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="For an answer, a body, or a client that reads.")]
Body = Annotated[int, typer.Option(min=1, help="Of a request.")]
Upload = Annotated[int, typer.Option(min=1, help="Of the administrator's; a prompt's files are one.")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]
HALF = "In bfloat16, prompts that were tuned in float32 answer with its rounding (docs/serve.md)."


@app.command()
@told
def serve(
    store: Store,
    backbone: Annotated[str, typer.Option(help="The model they were tuned on: a short name, a folder, a hub name.")],
    device: Device = None,
    precision: Precision = "fp32",
    int8: Int8 = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    keys: Keys = None,
    admin: Admin = None,
    imports: Imports = None,
    anyone: Anyone = False,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a batch, padding counted.")] = 4096,
    wait_ms: Annotated[float, typer.Option(min=0, help="How long a row waits for others to share its batch.")] = 3.0,
    queue: Queue = 1024,
    held_mib: Held = 2048,
    timeout_s: Timeout = 60.0,
    max_body_bytes: Body = 1 << 20,
    max_upload_bytes: Upload = 64 << 20,
    log_level: LogLevel = "info",
) -> None:
    """Answer for all prompts of a folder over HTTP.

    OpenAI's API under /v1, rows of any tasks at /predict, and a page to try them at /.
    """
    front = _front(
        store, host, port, keys=keys, admin=admin, imports=imports, anyone=anyone, body=max_body_bytes,
        upload=max_upload_bytes, timeout=timeout_s, log_level=log_level,
    )  # fmt: skip

    from promptuary.backbones.load import device_of, load
    from promptuary.precision import dtype_of, unwise
    from promptuary.serve import process
    from promptuary.serve.limits import Limits

    where = device_of(device or "auto")
    loaded = load(backbone, device=where, dtype=dtype_of(precision, where))
    if loaded.dtype == dtype_of("bf16", where):
        err.print(" ".join([HALF, unwise("bf16", where)]).rstrip())
    rounded(loaded, int8)
    limits = Limits(rows=max_rows, tokens=max_tokens, wait_s=wait_ms / 1000, queue=queue)
    process.serve(loaded, store, front, limits, held_bytes=held_mib << 20)


@app.command()
@told
def gateway(
    store: Store,
    backbone: Annotated[str, typer.Option(help="The model they were tuned on, and that the vLLM runs.")],
    upstream: Annotated[str, typer.Option(help="Where the vLLM listens, with --enable-prompt-embeds.")],
    prefixes: Annotated[
        Path | None, typer.Option(help="The folder of deep prefixes that the vLLM's connector reads (docs/engines.md).")
    ] = None,
    upstream_key: Annotated[
        Path | None, typer.Option("--upstream-key-file", help="Its first line is the vLLM's API key.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Requests on their way to the vLLM.")] = 256,
    device: Device = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    keys: Keys = None,
    admin: Admin = None,
    imports: Imports = None,
    anyone: Anyone = False,
    timeout_s: Timeout = 60.0,
    max_body_bytes: Body = 1 << 20,
    max_upload_bytes: Upload = 64 << 20,
    log_level: LogLevel = "info",
) -> None:
    """Answer for the prompts of a folder through a vLLM.

    It is unmodified and runs the same model. The API is that of `promptuary serve`, for tasks that write.
    """
    front = _front(
        store, host, port, keys=keys, admin=admin, imports=imports, anyone=anyone, body=max_body_bytes,
        upload=max_upload_bytes, timeout=timeout_s, log_level=log_level,
    )  # fmt: skip
    secret = None if upstream_key is None else upstream_key.read_text(encoding="utf-8").partition("\n")[0].strip()

    from promptuary.backbones.load import load
    from promptuary.serve import elsewhere

    elsewhere.gateway(
        load(backbone, device=device or "auto"), store, front, upstream, prefixes=prefixes, key=secret,
        at_once=at_once,
    )  # fmt: skip


@app.command()
@told
def replicas(
    store: Store,
    backbone: Annotated[str, typer.Option(help="The model they were tuned on: a short name, a folder, a hub name.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 2,
    cpus: Annotated[float, typer.Option(min=0, help="Processors that Ray sets aside for each.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs, or shares of one, for each.")] = 0.0,
    device: Device = None,
    precision: Precision = "fp32",
    int8: Int8 = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    keys: Keys = None,
    admin: Admin = None,
    imports: Imports = None,
    anyone: Anyone = False,
    max_rows: Annotated[int, typer.Option(min=1, help="Requests in the hands of each.")] = 64,
    queue: Queue = 1024,
    held_mib: Held = 2048,
    timeout_s: Timeout = 60.0,
    max_body_bytes: Body = 1 << 20,
    max_upload_bytes: Upload = 64 << 20,
    log_level: LogLevel = "info",
) -> None:
    """Answer for the prompts of a folder by processes on Ray.

    Each has a model. The API is that of `promptuary serve`. The cluster is that at RAY_ADDRESS, or else this machine.
    """
    from promptuary.errors import SettingError

    front = _front(
        store, host, port, keys=keys, admin=admin, imports=imports, anyone=anyone, body=max_body_bytes,
        upload=max_upload_bytes, timeout=timeout_s, log_level=log_level,
    )  # fmt: skip
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise SettingError("ray is not installed. Write: pip install 'ray[serve]'.") from error

    from promptuary.backbones.load import load
    from promptuary.serve import elsewhere
    from promptuary.serve.limits import Limits

    if precision != "fp32":
        err.print(HALF)
    elsewhere.replicated(
        load(backbone, device="cpu"), store, front, count, device=device or "auto", precision=precision, int8=int8,
        cpus=cpus, gpus=gpus, limits=Limits(rows=max_rows, queue=queue), held_bytes=held_mib << 20,
    )  # fmt: skip


@app.command()
@told
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for the server's log.")],
    keys: Annotated[Path, typer.Option(help="The file that `serve --keys` reads; it is made where there is none.")],
    task: Annotated[list[str] | None, typer.Option(help="A task it may ask (repeatable; default all).")] = None,
    rows_per_minute: Annotated[int | None, typer.Option(min=1, help="Rows and texts (default no limit).")] = None,
    at_once: Annotated[int | None, typer.Option(min=1, help="Requests under way (default no limit).")] = None,
) -> None:
    """Make a key for the server and print it once.

    The file keeps its hash.
    """
    from promptuary.serve.keys import new_key

    print(new_key(keys, name, task or [], rows_per_minute=rows_per_minute, at_once=at_once))
    err.print(f"{name} may ask {', '.join(task or ['all tasks'])}. Its hash is in {keys}, the key itself nowhere.")


def _front(
    store: Path, host: str, port: int, *, keys: Path | None, admin: Path | None, imports: Path | None, anyone: bool,
    body: int, upload: int, timeout: float, log_level: str,
) -> "Front":  # fmt: skip
    """Who may ask, where and how much; what cannot work is told before a model is loaded."""
    from promptuary.errors import SettingError

    if not store.is_dir():
        raise SettingError(
            f"{store}: there is no such folder. Expected one that holds such folders as `tune --out` writes; "
            f"to begin with none, write: mkdir {store}"
        )
    try:
        from promptuary.serve import keys as guards
        from promptuary.serve import logs, process
        from promptuary.serve.gate import Bounds
    except ImportError as error:
        raise SettingError(f"{error.name} is not installed. Write: pip install 'promptuary[serve]'.") from error
    guard = guards.Guard(
        None if keys is None else guards.read_keys(keys), None if admin is None else guards.read_admin(admin)
    )
    process.check_open(host, guard, allowed=anyone)
    logs.start(log_level)
    return process.Front(host, port, guard, Bounds(body, upload, timeout), imports, anyone)
