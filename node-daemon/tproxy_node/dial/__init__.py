"""Dialling for laptops: connections, datagrams and DNS queries that leave from a pod of the Session's namespace."""
