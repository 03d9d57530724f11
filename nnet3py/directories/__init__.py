"""Kaldi's directories: what their files say, and what must belong together where two of them meet."""
