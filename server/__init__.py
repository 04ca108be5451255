"""Texts, documents, HTTP and people: the floor above index/."""

__version__ = "0.1.0"
