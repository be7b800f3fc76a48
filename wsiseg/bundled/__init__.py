"""Slides and models that come with wsiseg: data only."""
