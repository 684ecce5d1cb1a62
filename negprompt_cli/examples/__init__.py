"""Programs to copy. Each is complete and imports nothing of this package."""
