"""Folders kept in step with a server: what is in them, what of it was sent, and what has changed since."""
