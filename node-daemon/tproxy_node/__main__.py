"""`python -m tproxy_node`, and `python -m tproxy_node debug`."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["debug"]:
        from tproxy_node.debug import command

        sys.exit(command.main(sys.argv[2:]))

    from tproxy_node.main import main

    sys.exit(main(sys.argv[1:]))
