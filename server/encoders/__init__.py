"""Texts in, unit vectors out: the models, and the queue in front of them."""

from server.encoders.encoder import Encoder
from server.encoders.fingerprint import Fingerprint
from server.encoders.loading import load_encoder

__all__ = ["Encoder", "Fingerprint", "load_encoder"]
