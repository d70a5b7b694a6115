"""Keep every backup file in several places at once, each copy provable."""

__version__ = "0.1.0"
