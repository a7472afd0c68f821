"""A two-node cluster of network namespaces on one Linux machine: a stage for newcomers and tests."""
