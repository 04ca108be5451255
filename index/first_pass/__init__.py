"""The first pass: every row competes on its prefix. The only package that imports faiss."""

from index.first_pass.files import FirstPassFolder, Manifest
from index.first_pass.snapshot import PrefixSnapshot
from index.first_pass.writer import FirstPass

__all__ = ["FirstPass", "FirstPassFolder", "Manifest", "PrefixSnapshot"]
