"""A small language, its model and its graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnet3py.alignment.language import prepare_language
from nnet3py.alignment.timed_phones import monophone_transition_model
from nnet3py.nnet.transition_model import TransitionModel, read_topology, write_transition_model_to
from nnet3py.tables.basic_types import write_header
from nnet3py.tables.streams import open_output

# "to" and "two" sound alike, "a" begins "at", and "at" has two pronunciations.
LEXICON = """\
a 1.0 A
at 1.0 A T
at 0.5 O T
two 1.0 T U
to 1.0 T U
"""


def write_model(path: Path, model: TransitionModel) -> None:
    with open_output(str(path)) as sink:
        write_header(sink, True)
        write_transition_model_to(sink, model, True)


@pytest.fixture
def language(tmp_path: Path) -> Path:
    (tmp_path / "lexicon.txt").write_text(LEXICON)
    prepare_language(str(tmp_path / "lexicon.txt"), str(tmp_path / "lang"), num_silence_states=3)
    return tmp_path / "lang"


@pytest.fixture
def model_dir(tmp_path: Path, language: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    write_model(folder / "final.mdl", monophone_transition_model(read_topology(str(language / "topo"))))
    return folder
