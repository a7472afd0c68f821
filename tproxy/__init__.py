"""Run one service of a Kubernetes cluster on your laptop, with the cluster's traffic.

Rooms: `model` (pure), `tunnel` (sans-IO multiplexer), `rpc` (its gRPC transport), `steer` (kernel steering),
`netns` (pods' network namespaces), `kube` (cluster access), `lab` (a cluster of namespaces on one machine).
"""
