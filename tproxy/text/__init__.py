"""Text for people: tables, times and sizes, what may be printed."""
