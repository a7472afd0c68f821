"""Loading python-iptables."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_warnings_that_are_errors_to_somebody_do_not_keep_it_from_loading(tmp_path: Path) -> None:
    """Compiling its sources gives some; here nothing has been compiled yet."""
    code = "from tproxy.steer import iptables_library; iptables_library.load()"
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    got = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (got.returncode, got.stderr) == (0, "")
