"""Which characters separate fields, and how bytes become text and text bytes again; see :mod:`nnet3py.text.lines`."""

from __future__ import annotations

BLANKS = " \t\n\r\f\v"
"""What separates fields."""


def decode(data: bytes) -> str:
    """Bytes as text; those that are not UTF-8 become surrogates, which :func:`encode` turns back."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that :func:`decode` was given."""
    return text.encode("utf-8", "surrogateescape")
