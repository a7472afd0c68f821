"""Steering: new connections to a pod's port are handed to a listener of ours, by the kernel."""
