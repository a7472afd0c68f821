"""Generated from tunnel.proto."""
