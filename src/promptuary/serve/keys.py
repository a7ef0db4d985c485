"""Who may ask what: API keys with their tasks and limits, kept as hashes.

A key is 32 random bytes, so its hash needs no salt and no slow function: nobody can try them all. Whoever reads the
file cannot ask with what it holds. A key that is sent is compared with every stored hash, each in constant time.
"""

import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from promptuary.errors import SettingError
from promptuary.files import write
from promptuary.serve.faults import Fault, fault_of
from promptuary.specs import complaint

ALL = "*"
PREFIX = "pk-"
UNANSWERED = (429, *range(500, 600))  # statuses of requests that the server could not answer
Positive = Annotated[int, Field(ge=1)]


class Key(BaseModel):
    """A key as it is kept.

    Arguments:
        name: for logs. sha256: of the key, in hexadecimal. tasks: that it may ask, `*` for all.
        rows_per_minute: rows and texts; at_once: requests; `None` is no limit.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    tasks: list[str]
    rows_per_minute: Positive | None = None
    at_once: Positive | None = None

    def may(self, task: str) -> bool:
        return ALL in self.tasks or task in self.tasks


@dataclass(eq=False)
class Caller:
    """Whoever asks: a key's holder, the administrator, or anyone where no keys are asked for.

    Arguments:
        key: `None` where everything is allowed. admin: whether tasks may be changed. clock: seconds, rising.
    """

    name: str
    key: Key | None = None
    admin: bool = False
    clock: Callable[[], float] = time.monotonic
    _asking: int = 0
    _spent: float = 0.0  # rows of the last minute, forgotten evenly
    _seen: float = field(default=0.0)

    def may(self, task: str) -> bool:
        return self.key is None or self.key.may(task)

    @contextmanager
    def asking(self, rows: int) -> Iterator[None]:
        """A request for so many rows, while it runs; one that the server could not answer costs nothing.

        Raises:
            Fault: 429 beyond the key's limits, 400 for more rows than it ever may.
        """
        if self.key is not None:
            self._check(self.key, rows)
        self._asking += 1
        began = self.clock()
        try:
            yield
        except Exception as error:
            if fault_of(error).status_code in UNANSWERED and self.key is not None:
                self._give_back(self.key, rows, began)
            raise
        finally:
            self._asking -= 1

    def _check(self, key: Key, rows: int) -> None:
        if key.at_once is not None and self._asking >= key.at_once:
            sentence = f"This key has {self._asking} requests under way, as many as it may. Wait for one."
            raise Fault(429, sentence, code="too_many_at_once", retry_after_s=1)
        if key.rows_per_minute is not None:
            self._spend(key.rows_per_minute, rows)

    def _spend(self, limit: int, rows: int) -> None:
        """Rows flow out evenly, `limit` in a minute; a request that is refused costs nothing."""
        if rows > limit:
            sentence = f"{rows} rows at once, and this key may ask for {limit} in a minute. Send fewer."
            raise Fault(400, sentence, code="too_many_rows")
        now = self.clock()
        spent = max(0.0, self._spent - (now - self._seen) * limit / 60)
        if spent + rows > limit:
            after = (spent + rows - limit) * 60 / limit
            sentence = f"This key may ask for {limit} rows in a minute. Try again in {after:.0f} s."
            raise Fault(429, sentence, code="rate_limit", retry_after_s=after)
        self._spent, self._seen = spent + rows, now

    def _give_back(self, key: Key, rows: int, began: float) -> None:
        """Forget rows that were spent at `began`, as far as they did not flow out since."""
        left = rows - (self.clock() - began) * (key.rows_per_minute or 0) / 60
        self._spent = max(0.0, self._spent - max(0.0, left))


class Guard:
    """Tells who asks.

    Arguments:
        keys: `None` lets anyone ask.
        admin: the hash of the administrator's token; `None` lets nobody change tasks.
    """

    def __init__(
        self,
        keys: Sequence[Key] | None = None,
        admin: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.admin = admin
        self._anyone = Caller("anyone") if keys is None else None
        self._admin = Caller("admin", admin=True)
        self._callers = [(key.sha256, Caller(key.name, key, clock=clock)) for key in keys or ()]
        if admin is not None:
            self._callers.append((admin, self._admin))

    @property
    def open(self) -> bool:
        """Whether anyone may ask."""
        return self._anyone is not None

    def caller(self, authorization: str | None) -> Caller:
        """Who sent this header.

        Raises:
            Fault: 401 for no key, or none that is known.
        """
        scheme, _, token = (authorization or "").partition(" ")
        given = hashed(token.strip()) if scheme.lower() == "bearer" else ""
        found = [caller for known, caller in self._callers if hmac.compare_digest(known, given)]
        if found:
            return found[0]
        if self._anyone is not None:
            return self._anyone
        if not authorization:
            raise Fault(401, "A key is needed: send Authorization: Bearer KEY.", code="missing_api_key")
        raise Fault(401, "This key is not known here.", code="invalid_api_key")

    def check_admin(self, caller: Caller) -> None:
        """Let nobody but the administrator pass.

        Raises:
            Fault: 401 or 403.
        """
        if self.admin is None:
            sentence = "Tasks cannot be changed here: the server was started without --admin-token-file."
            raise Fault(403, sentence, code="admin_disabled")
        if not caller.admin:
            raise Fault(401, "This needs the administrator's token as the key.", code="admin_only")


def hashed(token: str) -> str:
    """The hash under which a key is kept."""
    return sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path) -> list[Key]:
    """The keys of a file.

    Raises:
        SettingError: where it is missing or holds something else.
    """
    try:
        return TypeAdapter(list[Key]).validate_json(path.read_bytes())
    except OSError as error:
        raise SettingError(f"--keys {path}: {error.strerror}. `promptuary key` writes such a file.") from error
    except ValidationError as error:
        raise SettingError(
            f"--keys {path}: {complaint(error, 'Field')} `promptuary key` writes such a file."
        ) from error


def read_admin(path: Path) -> str:
    """The hash of the administrator's token, the first line of a file.

    Raises:
        SettingError: where it is missing, too short to be safe, or cannot be sent.
    """
    try:
        token = path.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"--admin-token-file {path}: it could not be read ({error}).") from error
    if not token.isascii():
        raise SettingError(f"--admin-token-file {path}: letters beyond ASCII, which no header carries. Write others.")
    if len(token) < 16:
        raise SettingError(f"--admin-token-file {path}: a token of {len(token)} characters. Expected 16 or more.")
    return hashed(token)


def new_key(
    path: Path, name: str, tasks: Sequence[str], *, rows_per_minute: int | None = None, at_once: int | None = None
) -> str:
    """Add a key to a file, which is made where there is none, for its owner's eyes alone; the key is returned once.

    Raises:
        SettingError: for a name that has a key already, and for a file that holds something else.
        TrainingError: when it cannot be written.
    """
    known = read_keys(path) if path.exists() else []
    if name in [key.name for key in known]:
        raise SettingError(f"{path}: {name!r} has a key already. Choose another name, or take it out of the file.")
    token = PREFIX + secrets.token_urlsafe(32)
    limits = {"rows_per_minute": rows_per_minute, "at_once": at_once}
    try:
        own = Key(name=name, sha256=hashed(token), tasks=list(tasks) or [ALL], **limits)
    except ValidationError as error:
        raise SettingError(complaint(error, "Field")) from error
    plain = [key.model_dump(exclude_none=True) for key in (*known, own)]
    write(path, json.dumps(plain, indent=2, ensure_ascii=False).encode() + b"\n")
    path.chmod(0o600)
    return token
