"""`python -m tproxy_node`."""

import sys

from tproxy_node.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
