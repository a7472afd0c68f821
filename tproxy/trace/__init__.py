"""Watching a pod's network at work: sockets and packets by bcc, and packets as such."""
