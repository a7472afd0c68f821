"""What `tproxy doctor` checks."""
