"""Text as Kaldi's files have it: lines, fields and bytes."""
