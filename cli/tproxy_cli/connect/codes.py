"""How the root helper ends, in numbers that sudo does not use itself."""

IN_USE, NO_IPTABLES, FAILED, NOT_POSSIBLE = 75, 76, 77, 78
