"""Network namespaces: identity, entering them, and finding those of pods."""
