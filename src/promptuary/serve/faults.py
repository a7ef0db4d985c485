"""From whatever goes wrong to a status, a word for programs and a sentence for people."""

import copyreg
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from promptuary.errors import (
    BackboneError,
    BusyError,
    CheckpointError,
    DataError,
    MissingError,
    SettingError,
    StoppedError,
    TrainingError,
)
from promptuary.serve.wire import Failed, Failure

TYPES: Mapping[int, str] = MappingProxyType(
    {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
)
CODES: Mapping[int, str] = MappingProxyType({404: "not_found", 405: "method_not_allowed"})


class Fault(HTTPException):
    """A request that is answered with an error.

    Arguments:
        status: of HTTP. message: the sentence. code: the word. param: the field it is about.
        retry_after_s: when the same request may do better; `closes`: whether the connection ends with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        closes: bool = False,
    ) -> None:
        headers = {}
        if retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
        if closes:
            headers["Connection"] = "close"
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.code, self.param = code, param

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj__, (type(self),), vars(self)  # type: ignore[attr-defined]

    @property
    def body(self) -> Failure:
        kind = TYPES.get(self.status_code, "server_error" if self.status_code >= 500 else "invalid_request_error")
        return Failure(error=Failed(message=str(self.detail), type=kind, param=self.param, code=self.code))

    def response(self) -> Response:
        content = self.body.model_dump_json().encode()
        return Response(content, self.status_code, self.headers, media_type="application/json")


def fault_of(error: Exception) -> Fault:
    """The fault that an exception is; one that nobody expected is a 500 that says nothing of itself."""
    match error:
        case Fault():
            return error
        case RequestValidationError():
            return _invalid(error.errors())
        case BusyError():
            return Fault(429, str(error), code="busy", retry_after_s=error.retry_after_s)
        case StoppedError():
            sentence = "The engine has stopped, and the server must be started again. Its log has the story."
            return Fault(503, sentence, code="stopped", retry_after_s=5)
        case TimeoutError():
            return Fault(504, "There was no answer in time. Ask for less, or again later.", code="timeout")
        case MissingError():  # it was there when the request came
            return Fault(404, "This task was taken out just now.", code="model_not_found", param="model")
        case CheckpointError():
            sentence = "The task's prompt is damaged on the server, or belongs to another model."
            return Fault(500, sentence, code="task_damaged")
        case TrainingError():  # of the store
            return Fault(507, str(error), code="not_written")
        case DataError() | SettingError() | BackboneError():
            return Fault(400, str(error), code="bad_request")
        case HTTPException(status_code=status):
            return Fault(status, _sentence(status, str(error.detail)), code=CODES.get(status, "bad_request"))
        case _:
            return Fault(500, "Something went wrong here. The server's log has the story.", code="internal")


def _sentence(status: int, detail: str) -> str:
    if status == 404:
        return "There is nothing at this path. /openapi.json lists what there is."
    return "This path does not answer that method." if status == 405 else detail


def _invalid(errors: Sequence[Mapping[str, Any]]) -> Fault:
    """The first thing that is wrong with a body, with its place in it."""
    first = errors[0]
    where = [str(part) for part in first["loc"][1:]]
    place = ".".join(part for part in where if not part[:1].isupper() and "[" not in part and part not in UNIONS)
    if first["type"] == "json_invalid":
        return Fault(400, f"The body is no JSON: {first['ctx']['error']}.", code="invalid_json")
    if not where and first["type"] in ("model_attributes_type", "dict_type", "missing"):
        sentence = "Expected a JSON object as the body, sent with Content-Type: application/json."
        return Fault(400, sentence, code="invalid_body")
    told = str(first["msg"]).removeprefix("Value error, ")
    sentence = f"{place}: {told}" if place else told
    sentence = sentence if sentence.endswith((".", "?")) else f"{sentence}."
    return Fault(400, sentence, code="invalid_body", param=place or None)


UNIONS = frozenset({"str", "list", "constrained-str"})  # how pydantic names the member of a union that failed
