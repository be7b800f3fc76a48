"""Comparing results with truth: metrics (being built)."""
