"""The one family of errors a person may see.

An error says what failed and why (`message`) and the next command to run (`hint`). The CLI prints both and leaves
with `exit_code`; daemons carry them over their APIs unchanged.
"""


class TproxyError(Exception):
    """A failure a person can act on.

    `message` is one sentence without a final stop; `hint` is the next step, commands in backticks, or empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class InvalidError(TproxyError):
    """Input that cannot mean anything; found before anything was changed."""

    exit_code = 2


class ClusterError(TproxyError):
    """The cluster, or tproxy's part in it, is missing, unreachable or incompatible."""

    exit_code = 3


class DeniedError(TproxyError):
    """Authentication failed or a right is missing."""

    exit_code = 4


class ConflictError(TproxyError):
    """Somebody else already intercepts this."""

    exit_code = 5
