"""Self-hosted marking of short exam answers with open language models."""

__version__ = "0.1.0"
