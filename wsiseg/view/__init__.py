"""Seeing results: report and viewer (being built)."""
