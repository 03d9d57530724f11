"""espeak-ng as a function from text to samples and timed phonemes, through ctypes.

The library and its voices come from the Python package ``espeakng-loader``. By itself the synthesiser never says a
thing twice the same: it seeds its random numbers (breath, flutter of the pitch) by the clock, and keeps state between
utterances. For speech that can be made again, each utterance sets the seed, and one process speaks for one speaker, in
a fixed order.

Source of the structures: espeak-ng src/include/espeak-ng/speak_lib.h.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnet3py.alignment.lexicon import import_recipe_library
from nnet3py.errors import UserError

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, espeak_Synth returns when all are made
_PHONEME_EVENTS = 1  # espeakINITIALIZE_PHONEME_EVENTS
_CHARACTERS = 1  # POS_CHARACTER
_UTF8_WITH_END_PAUSE = 0x1001  # espeakCHARS_UTF8, espeakENDPAUSE
_END, _WORD, _PHONEME = 0, 1, 7
_RATE, _PITCH, _RANGE = 1, 3, 4


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass
class Phoneme:
    """A phoneme as spoken: espeak's mnemonic, its first sample, and the number of the word it is in (from 0)."""

    mnemonic: str
    sample: int
    word: int


class Synthesiser:
    """One espeak-ng in this process. ``rate``: samples a second."""

    def __init__(self) -> None:
        loader = import_recipe_library("espeakng_loader")
        self._library = ctypes.CDLL(loader.get_library_path())
        self._samples: list[np.ndarray] = []
        self._events: list[tuple[int, int, str, int]] = []
        self._voice = ""
        self.rate = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, str(loader.get_data_path()).encode(), _PHONEME_EVENTS
        )
        if self.rate <= 0:
            raise UserError(f"espeak-ng finds no voices in {loader.get_data_path()}: install espeakng-loader again.")
        self._callback = _Callback(self._collect)  # kept: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(
        self, text: str, *, voice: str, rate: int, pitch: int, pitch_range: int, seed: int
    ) -> tuple[np.ndarray, list[Phoneme]]:
        """Speak ``text``.

        Args:
            voice: language and variant, ``en-us+f2``.
            rate: words a minute. pitch, pitch_range: 0 to 100, 50 is the voice's own.
            seed: of the synthesiser's random numbers, 0 to 2**31 - 1.

        Returns:
            Samples, (number,) int16, and the phonemes in order of time; a pause is the mnemonic ``_`` or ``_:``.
        """
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        if voice != self._voice and self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice!r}: see the package's espeak-ng-data/lang and voices/!v.")
        self._voice = voice
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._samples, self._events = [], []
        encoded = text.encode()
        status = self._library.espeak_Synth(
            encoded, len(encoded) + 1, 0, _CHARACTERS, 0, _UTF8_WITH_END_PAUSE, None, None
        )
        if status != 0 or not self._samples:
            raise UserError(f"espeak-ng could not speak {text!r} with the voice {voice} (status {status}).")
        return np.concatenate(self._samples), self._phonemes()

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _END:
            event = events[index]
            name = event.id.string.decode("utf-8", "replace") if event.type == _PHONEME else ""
            number = event.id.number if event.type == _WORD else 0
            self._events.append((event.type, event.sample, name, number))
            index += 1
        return 0

    def _phonemes(self) -> list[Phoneme]:
        word, phonemes = -1, []
        for kind, sample, name, _ in self._events:
            if kind == _WORD:
                word += 1
            elif kind == _PHONEME and name:
                phonemes.append(Phoneme(name, sample, word))
        return phonemes
