"""Acoustic features: filterbanks and cepstra of recordings, and their normalisation."""
