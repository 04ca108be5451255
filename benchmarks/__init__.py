"""Measurements on real data, each against the real server over HTTP. Nothing here is a test: figures are printed."""
