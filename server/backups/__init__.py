"""Backups: one archive with texts, metadata and vectors as they were at one moment."""
