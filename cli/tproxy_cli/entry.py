"""Entry points of the command line.

Nothing is imported before `_load` has seen to Ctrl-C: loading takes a few tenths of a second, and a KeyboardInterrupt
in the middle of an import would be shown as a traceback.
"""

import signal
from types import ModuleType


def tproxy() -> None:
    """`tproxy`."""
    _load().main()


def kubectl_tproxy() -> None:
    """`kubectl tproxy`, a plugin of kubectl."""
    _load().kubectl_main()


def kubectl_complete() -> None:
    """What kubectl asks for completions of `kubectl tproxy`."""
    _load().kubectl_complete_main()


def _load() -> ModuleType:
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where a shell has it ignored, as in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tproxy_cli import main

    signal.signal(signal.SIGINT, before)
    return main


if __name__ == "__main__":
    tproxy()
