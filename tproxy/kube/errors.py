"""Answers of the API server that callers tell apart."""

from tproxy.errors import ClusterError


class NotFoundError(ClusterError):
    """The object does not exist (404)."""


class AlreadyExistsError(ClusterError):
    """An object of that name exists (409 AlreadyExists)."""


class StaleError(ClusterError):
    """The object has changed, or is another one by now (409 Conflict)."""
