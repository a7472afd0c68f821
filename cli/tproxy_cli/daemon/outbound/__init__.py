"""The laptop's own traffic into the cluster: it leaves from a pod, dialled by the node that the pod is on."""
