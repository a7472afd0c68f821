"""The node daemon: steers the intercepted pods of its node and relays their connections."""
