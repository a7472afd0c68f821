"""The foreground half of `tproxy run`: namespaces, the process that stays in them, the command and its exit status."""
