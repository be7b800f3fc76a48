"""Slides, a scan and models that come with wsiseg: data only."""
