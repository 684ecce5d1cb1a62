"""The version of the package, the one place that pyproject.toml and the code read it from."""

__version__ = "0.1.0"
