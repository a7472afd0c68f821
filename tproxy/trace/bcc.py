"""bcc, which distributions package for their own Python; nobody publishes it to the Python index (what is called `bcc`
there is something else). Its Python part is plain files over libbcc.so, so that any Python may use them.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tproxy.errors import TproxyError

PLACES = ("/usr/lib/python3/dist-packages", "/usr/lib/python3*/site-packages", "/usr/lib/python3*/dist-packages")

LACKING = TproxyError(
    "bcc is not installed on this node, which tracing needs",
    "use the image's variant with tracing, or run `apt install python3-bpfcc`; everything else works without",
)


def find(root: Path = Path("/")) -> Path | None:
    """The directory of bcc's Python package."""
    for place in PLACES:
        for found in sorted(root.glob(f"{place[1:]}/bcc/libbcc.py"), reverse=True):
            return found.parent
    return None


def load() -> ModuleType:
    """The module. It takes 75 MiB, of which little is memory of the process' own. Raises TproxyError."""
    place = find()
    if place is None:
        raise LACKING
    spec = importlib.util.spec_from_file_location("bcc", place / "__init__.py", submodule_search_locations=[str(place)])
    if spec is None or spec.loader is None:
        raise LACKING
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except (OSError, ImportError) as error:
        del sys.modules["bcc"]
        raise TproxyError(f"bcc cannot be used: {error}", LACKING.hint) from error
    return module
