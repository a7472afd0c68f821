"""`python -m tproxy_cli.daemon`: the laptop daemon."""

import sys

from tproxy_cli.daemon.process import main

if __name__ == "__main__":
    sys.exit(main())
