"""Measurements: of the real server over HTTP on real data, and beside other stores. Nothing here is a test."""
