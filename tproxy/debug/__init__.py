"""Questions that are put to a node, and the answers: what both ends and people read."""
