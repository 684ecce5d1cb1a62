"""Programs to copy: each stands alone and imports nothing of this package."""
