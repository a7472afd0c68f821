"""The daemon's half of `tproxy run`: serves what is caught in a run's namespaces."""
