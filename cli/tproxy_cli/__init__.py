"""The command line and the daemon on the laptop."""
