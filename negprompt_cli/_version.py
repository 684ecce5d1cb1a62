"""The version of the package. Both pyproject.toml and the code read it from here."""

__version__ = "0.1.0"
