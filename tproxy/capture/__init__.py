"""Catches everything that leaves a network namespace of our own, without root: addresses, rules, sockets."""
