"""The alignment directory: train a monophone GMM on a data directory and leave what Kaldi's align scripts leave.

Files::

    final.mdl        the transition model and the mixtures, as Kaldi's gmm-est writes them
    tree             the monophone tree, in Kaldi's text form
    ali.1.gz         a transition-id for each frame; num_jobs holds 1
    pdf.ark pdf.scp  the same as pdf-ids; num_pdfs holds their number
    phones.txt cmvn_opts    phones as the alignment numbers them, and the options of apply-cmvn that it had
    info/data_used info/left_out    what was aligned and what was not (:mod:`nnet3py.driver.data_used`)
"""

from __future__ import annotations

import gzip
import io
import os
import shlex
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.alignment.deltas import add_deltas
from nnet3py.alignment.language import Language, read_language
from nnet3py.alignment.monophone import Alignment, MonophoneTrainer, Schedule, train_monophone
from nnet3py.directories import alignment_archives
from nnet3py.directories.data import DataDirectory
from nnet3py.directories.normalisation import Normalisation
from nnet3py.directories.transcripts import read_transcripts
from nnet3py.errors import UserError, reason
from nnet3py.nnet.transition_model import write_transition_model_to
from nnet3py.tables.basic_types import write_header
from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.named_files import require_input, require_output_folder
from nnet3py.tables.streams import open_output
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.temporary_files import replacing
from nnet3py.text.lines import encode, read_text, write_text


@dataclass(frozen=True)
class AlignedData:
    """What became of a data directory.

    Attributes:
        alignment: of what could be aligned.
        lengths: frames of every utterance that has features or a transcript; 0 for one without features.
        left_out: utterance -> why it was not aligned.
    """

    alignment: Alignment
    lengths: dict[str, int]
    left_out: dict[str, str]


def align_data_directory(
    data_dir: str, lang_dir: str, ali_dir: str, schedule: Schedule, *, cmvn_options: str = ""
) -> AlignedData:
    """Train on ``<data_dir>``'s feats.scp, cmvn.scp, utt2spk and text, and write ``<ali_dir>``.

    Args:
        cmvn_options: options of apply-cmvn, which must be on the path.

    Raises:
        UserError: a file is missing or malformed, nothing can be aligned, or the library is not installed.
    """
    for name in ("text", "feats.scp"):
        require_input(os.path.join(data_dir, name))
    require_output_folder(ali_dir)
    language = read_language(lang_dir)
    texts = read_transcripts(os.path.join(data_dir, "text"))
    transcripts = {key: tuple(words) for key, words in texts.items()}
    listed = list(DataDirectory(data_dir).features())
    normalisation = Normalisation(cmvn_options)
    normalisation.require(data_dir, data_dir)
    left_out = normalisation.without_statistics(listed, data_dir)
    features = _read_features(data_dir, normalisation)
    left_out |= {key: "no frames" for key in listed if key not in features and key not in left_out}
    left_out |= {key: "no transcript" for key in features if key not in transcripts}
    left_out |= {key: "no features" for key in transcripts if key not in features and key not in left_out}
    both = {key: features[key] for key in features if key in transcripts}
    trainer = MonophoneTrainer(both, transcripts, language, schedule)
    log.log(f"{len(both)} utterances, {sum(map(len, both.values()))} frames of {trainer.features.shape[1]} dimensions.")
    alignment = train_monophone(trainer, _report_pass)
    left_out |= dict.fromkeys(alignment.too_short, "too short for its transcript")
    _write(trainer, alignment, language, ali_dir, cmvn_options)
    lengths = {key: len(features[key]) if key in features else 0 for key in {**dict.fromkeys(listed), **transcripts}}
    return AlignedData(alignment, lengths, left_out)


def _read_features(data_dir: str, normalisation: Normalisation) -> dict[str, NDArray[np.float32]]:
    """Normalised features with their first and second derivatives, of the utterances that have frames."""
    source = f"scp:{data_dir}/feats.scp"
    place = shlex.quote(data_dir)
    command = normalisation.command(f"scp:{place}/feats.scp", data_dir=place)
    rspecifier = f"ark,s,cs:{command} |" if command else source
    features: dict[str, NDArray[np.float32]] = {}
    with SequentialReader(rspecifier, MATRIX) as reader:
        for key, matrix in reader:
            if not np.isfinite(matrix).all():
                row, column = np.argwhere(~np.isfinite(matrix))[0].tolist()
                raise UserError(f"{data_dir}: the features of {key} are not finite at frame {row}, dimension {column}.")
            if features and matrix.shape[1] != next(iter(features.values())).shape[1] // 3:
                dim = next(iter(features.values())).shape[1] // 3
                raise UserError(
                    f"{data_dir}: the features of {key} have dimension {matrix.shape[1]}, others have {dim}."
                )
            if len(matrix):
                features[key] = add_deltas(matrix)
    return features


def _report_pass(iteration: int, log_likelihood: float, num_gaussians: int) -> None:
    log.log(f"Pass {iteration}: log-likelihood {log_likelihood:.4f} a frame, then {num_gaussians} Gaussians.")


def _write(
    trainer: MonophoneTrainer, alignment: Alignment, language: Language, ali_dir: str, cmvn_options: str
) -> None:
    model = alignment.transition_model
    try:
        os.makedirs(ali_dir, exist_ok=True)
        alignment_archives.start_over(ali_dir)
        for name in alignment_archives.FROM_MODEL:
            if os.path.exists(os.path.join(ali_dir, name)):
                os.unlink(os.path.join(ali_dir, name))
        with replacing(os.path.join(ali_dir, "tree")) as temporary:
            trainer.tree.write(False, temporary)
    except OSError as problem:
        raise UserError(f"Cannot write the alignment directory {ali_dir}: {reason(problem)}.") from problem
    with open_output(os.path.join(ali_dir, "final.mdl")) as sink:
        write_header(sink, True)
        write_transition_model_to(sink, model, True)
        alignment.mixtures.write_to(sink, True)
    in_order = sorted(alignment.transitions.items(), key=lambda pair: encode(pair[0]))
    archive = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=archive, mtime=0) as compressed:
        for key, transitions in in_order:
            line = f"{key} {' '.join(map(str, transitions.tolist()))}\n"
            compressed.write(encode(line))
    with open_output(alignment_archives.part(ali_dir, 1)) as sink:
        sink.write(archive.getvalue())
    with TableWriter(f"ark,scp:{ali_dir}/pdf.ark,{ali_dir}/pdf.scp", INT_VECTOR) as writer:
        for key, transitions in in_order:
            writer.write(key, model.pdfs(transitions))
    texts = {
        "num_pdfs": f"{model.num_pdfs}\n",
        "cmvn_opts": f"{cmvn_options}\n",
        "phones.txt": read_text(language.path("phones.txt")),
    }
    for name, text in texts.items():
        write_text(os.path.join(ali_dir, name), text)
    alignment_archives.publish(ali_dir, 1)
