"""What tproxy talks about: sessions, intercepts, pods, ports, connections. Pure: no I/O, no clock."""
