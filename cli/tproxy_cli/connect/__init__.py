"""The root part of `tproxy connect`: rules, routes and sockets on the laptop itself, and undoing all of it."""
