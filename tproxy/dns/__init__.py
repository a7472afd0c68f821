"""DNS as much of it as a laptop needs between its programs and a cluster. Sans-IO."""
