"""The process that captures packets, `python -m tproxy_node.capture`: one for each capture, so that the daemon's loop,
on which the lease depends, never has to keep up with a pod's traffic.
"""
