"""What a person sees: tables, progress, errors."""
