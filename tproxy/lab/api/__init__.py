"""An embedded Kubernetes API server for the lab: objects in memory, the REST dialect of the kinds that tproxy uses."""
