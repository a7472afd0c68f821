"""The daemon's half of `tproxy connect`: serves what the root helper catches on the laptop itself."""
