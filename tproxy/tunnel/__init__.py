"""The tunnel: many connections over one stream, sans-IO, and its asyncio endpoint."""
