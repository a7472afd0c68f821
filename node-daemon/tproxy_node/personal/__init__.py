"""Ports with personal intercepts: joins the routers of `tproxy.http` with sockets and tunnels."""
