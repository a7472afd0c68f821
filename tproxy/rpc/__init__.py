"""The tunnel's gRPC transport."""
