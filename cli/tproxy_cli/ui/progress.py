"""What is shown on stderr while a command waits, in four ways: a spinner, plain lines, JSON lines, nothing."""

import json
import shutil
import threading
import time
from typing import TextIO


class PlainLines:
    """One line for each piece of news, repetitions left out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def say(self, text: str) -> None:
        """Write the line."""
        if text != self._last:
            self._last = text
            print(text, file=self._stream, flush=True)

    def event(self, event: dict[str, object]) -> bool:
        """Events are for programs."""
        return False

    def clear(self) -> None:
        """Nothing is to be cleared."""


class JsonLines:
    """One JSON object for each piece of news, for editors and other programs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, text: str) -> None:
        """Write `{"progress": text}`."""
        self.event({"progress": text})

    def event(self, event: dict[str, object]) -> bool:
        """Write any object as a line."""
        print(json.dumps(event), file=self._stream, flush=True)
        return True

    def clear(self) -> None:
        """Nothing is to be cleared."""


class Spinner:
    """One line of a terminal that moves while something is waited for, and leaves no trace."""

    FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    ASCII_FRAMES = "|/-\\"
    INTERVAL = 0.1
    PATIENCE = 0.2
    """Seconds until the first frame: what is over by then needs none, and the eye is spared a flash."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
        self._frames = self.FRAMES if unicode else self.ASCII_FRAMES
        self._text = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, text: str) -> None:
        """Set the text, and start to move if it does not yet."""
        self._text = text
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def event(self, event: dict[str, object]) -> bool:
        """Events are for programs."""
        return False

    def clear(self) -> None:
        """Stop and wipe the line."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        started = time.monotonic()
        if self._stop.wait(self.PATIENCE):
            return
        frame = 0
        while True:
            seconds = int(time.monotonic() - started)
            waited = f" ({seconds}s)" if seconds >= 2 else ""
            line = f"{self._frames[frame % len(self._frames)]} {self._text}{waited}"
            # A wrapped line could not be wiped; the terminal may add ^C to it.
            width = shutil.get_terminal_size().columns - 3
            self._stream.write(f"\r\x1b[K{line[:width]}")
            self._stream.flush()
            frame += 1
            if self._stop.wait(self.INTERVAL):
                break
        self._stream.write("\r\x1b[K")
        self._stream.flush()
