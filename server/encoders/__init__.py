"""Texts in, unit vectors out: the models, and the queue in front of them."""
