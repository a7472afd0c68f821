"""The one place that states the version of every part of tproxy."""

VERSION = "0.1.0"
