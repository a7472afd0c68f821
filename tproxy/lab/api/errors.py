"""Errors of the API server, and how the Kubernetes API words them: `Status` objects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tproxy.errors import ClusterError, DeniedError, InvalidError, TproxyError
from tproxy.kube.errors import AlreadyExistsError, NotFoundError, StaleError
from tproxy.kube.port import Object, Resource


class ExpiredError(ClusterError):
    """The log no longer reaches back to the wanted resource version (410 Gone)."""


class BadRequestError(InvalidError):
    """The request itself makes no sense, whatever object it is about (400)."""


class UnauthorizedError(DeniedError):
    """No token, or one that nobody has (401)."""


class UnsupportedMediaTypeError(InvalidError):
    """A body in a format that the lab does not read (415)."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong with one field, in the API's words: reason `FieldValueInvalid` and the like."""

    field: str
    reason: str
    message: str


def invalid_value(path: str, value: Any, why: str) -> Cause:
    """The cause most often needed."""
    return Cause(path, "FieldValueInvalid", f"Invalid value: {json.dumps(value)[:256]}: {why}")


class InvalidObjectError(InvalidError):
    """An object that its kind does not allow (422), with one cause for each wrong field."""

    def __init__(self, resource: Resource, name: str, causes: Sequence[Cause]) -> None:
        texts = [f"{cause.field}: {cause.message}" for cause in causes]
        what = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
        super().__init__(f'{kind} "{name}" is invalid: {what}')
        self.causes = causes


_ANSWERS: Sequence[tuple[type[TproxyError], int, str]] = (
    (NotFoundError, 404, "NotFound"),
    (AlreadyExistsError, 409, "AlreadyExists"),
    (StaleError, 409, "Conflict"),
    (ExpiredError, 410, "Expired"),
    (UnauthorizedError, 401, "Unauthorized"),
    (DeniedError, 403, "Forbidden"),
    (BadRequestError, 400, "BadRequest"),
    (UnsupportedMediaTypeError, 415, "UnsupportedMediaType"),
    (InvalidError, 422, "Invalid"),
)


def status(code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> Object:
    """A `Status` body for a failure."""
    body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    body |= {"message": message, "reason": reason, "code": code}
    return body | ({"details": dict(details)} if details else {})


def status_of(error: TproxyError, details: Mapping[str, Any] | None = None) -> Object:
    """The `Status` body for an error; `details` names the object that the request was about."""
    details = dict(details or {})
    if isinstance(error, InvalidObjectError):
        details["causes"] = [
            {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in error.causes
        ]
    for kind, code, reason in _ANSWERS:
        if isinstance(error, kind):
            return status(code, reason, error.message, details)
    return status(500, "InternalError", error.message, details)
