"""What HTTP and TLS say in their first bytes; pure, no sockets."""
