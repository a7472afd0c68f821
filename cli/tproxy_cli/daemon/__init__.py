"""The daemon: holds the tunnels while the commands come and go."""
