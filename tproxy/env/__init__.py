"""What a container was given, its environment and its files, and how to write that down on a laptop. Pure."""
