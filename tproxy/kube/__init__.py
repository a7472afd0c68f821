"""Cluster access: kubeconfig, REST, watches, port-forward, workload resolution."""
