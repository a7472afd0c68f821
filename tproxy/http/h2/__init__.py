"""HTTP/2: every stream of a client's connection is decided on its own (RFC 9113, RFC 7541)."""
