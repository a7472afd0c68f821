"""The process that traces, `python -m tproxy_node.trace`: one for each trace, for as long as somebody reads it.

It is a process of its own because bcc brings a compiler, which takes memory that it does not give back, and because the
kernel takes everything of a trace down with the process, however that ends.
"""
