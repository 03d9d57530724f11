"""An acoustic model (Kaldi's ``.mdl``): transition model, network, context and the priors of the pdfs.

Source: Kaldi src/nnet3/am-nnet-simple.cc.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.component import Array
from nnet3py.nnet.description import network_info
from nnet3py.nnet.model_file import is_acoustic_model as is_acoustic_model
from nnet3py.nnet.model_file import read_network_after_transitions, require_network_name, write_network_to
from nnet3py.nnet.network import Network
from nnet3py.nnet.times import network_context
from nnet3py.nnet.transition_model import (
    EXPECTED,
    TransitionModel,
    read_transition_model_from,
    write_transition_model_to,
)
from nnet3py.tables.basic_types import (
    expect_token,
    read_header,
    read_int,
    write_header,
    write_int,
    write_token,
)
from nnet3py.tables.matrix import read_vector, write_vector
from nnet3py.tables.streams import open_input, open_output


@dataclass
class AcousticModel:
    """What a decoder needs.

    Attributes:
        left_context, right_context: frames that an output frame needs besides its own.
        priors: (pdfs,) float32 that the network's posteriors are divided by; without elements if not set.
    """

    transition_model: TransitionModel
    network: Network
    left_context: int
    right_context: int
    priors: Array = field(default_factory=lambda: np.empty(0, np.float32))

    @classmethod
    def of(cls, transition_model: TransitionModel, network: Network) -> AcousticModel:
        """A model without priors. Raises UserError if the network does not have the transition model's pdfs."""
        left, right = network_context(network)
        model = cls(transition_model, network, left, right)
        model.check()
        if transition_model.num_pdfs < model.num_pdfs:
            log.warning(
                f"The network's output has dimension {model.num_pdfs}, but the transition model only "
                f"{transition_model.num_pdfs} pdfs."
            )
        return model

    @property
    def num_pdfs(self) -> int:
        """Columns of the network's output."""
        return self.network.output_dim("output")

    def check(self) -> None:
        """Raise UserError if the parts do not fit."""
        if not self.network.is_simple():
            raise UserError("The network of an acoustic model needs an input named input and an output named output.")
        if self.transition_model.num_pdfs > self.num_pdfs:
            raise UserError(
                f"The transition model has {self.transition_model.num_pdfs} pdfs, but the network's output has "
                f"dimension {self.num_pdfs}."
            )
        if self.priors.size not in (0, self.num_pdfs):
            raise UserError(
                f"There are {self.priors.size} priors, but the network's output has dimension {self.num_pdfs}."
            )

    def set_network(self, network: Network) -> None:
        """Replace the network; priors of another dimension are dropped, with a warning (Kaldi ``SetNnet``)."""
        self.network = network
        self.left_context, self.right_context = network_context(network)
        if self.priors.size not in (0, self.num_pdfs):
            log.warning(
                f"Removing priors since there is a dimension mismatch after changing the network: "
                f"{self.priors.size} vs. {self.num_pdfs}"
            )
            self.priors = np.empty(0, np.float32)
        self.check()

    def info(self) -> str:
        """Several lines of text, as ``nnet3-am-info`` prints them."""
        ivector_dim = self.network.input_dim("ivector") if self.network.has_input("ivector") else -1
        lines = [
            f"input-dim: {self.network.input_dim('input')}",
            f"ivector-dim: {ivector_dim}",
            f"num-pdfs: {self.num_pdfs}",
            f"prior-dimension: {self.priors.size}",
        ]
        if self.priors.size:
            lines += [
                f"prior-sum: {np.float32(self.priors.sum(dtype=np.float64)):.6g}",
                f"prior-min: {self.priors.min():.6g}",
                f"prior-max: {self.priors.max():.6g}",
            ]
        return "\n".join(lines) + "\n# Nnet info follows.\n" + network_info(self.network)


def read_acoustic_model(rxfilename: str, check_finite: bool = True) -> AcousticModel:
    """The acoustic model in a file, binary or text.

    Its context is worked out again, as in Kaldi, which for a while wrote a wrong one.

    Raises:
        UserError: the file cannot be read, or is cut off, corrupt, of another kind or has parts that do not fit.
    """
    with open_input(rxfilename, replace(EXPECTED, what="an acoustic model (a .mdl)")) as source:
        binary = read_header(source)
        transition_model = read_transition_model_from(source, binary)
        network = read_network_after_transitions(source, binary, check_finite)
        expect_token(source, binary, "<LeftContext>")
        read_int(source, binary)
        expect_token(source, binary, "<RightContext>")
        read_int(source, binary)
        expect_token(source, binary, "<Priors>")
        priors = read_vector(source, binary).astype(np.float32, copy=False)
        if not (np.isfinite(priors).all() and (priors >= 0).all()):
            raise source.error("a prior is negative or not finite.")
        model = AcousticModel(transition_model, network, 0, 0, priors)
        try:
            model.check()
            model.left_context, model.right_context = network_context(network)
        except UserError as problem:
            raise UserError(f"{source.name}: {problem}") from problem
        return model


def write_acoustic_model(wxfilename: str, model: AcousticModel, binary: bool = True) -> None:
    """Write an acoustic model in Kaldi's form. The file appears complete or not at all.

    Raises:
        UserError: it cannot be written.
    """
    require_network_name(wxfilename)
    with open_output(wxfilename) as sink:
        write_header(sink, binary)
        write_transition_model_to(sink, model.transition_model, binary)
        write_network_to(sink, model.network, binary)
        write_token(sink, binary, "<LeftContext>")
        write_int(sink, binary, model.left_context)
        write_token(sink, binary, "<RightContext>")
        write_int(sink, binary, model.right_context)
        write_token(sink, binary, "<Priors>")
        write_vector(sink, model.priors, binary)


def adjust_priors(model: AcousticModel, sums: Array, floor: float = 1e-15, where: str = "posteriors") -> list[str]:
    """Set the priors to ``sums`` (pdfs,), normalised; returns what changed, in lines for the log.

    Raises:
        UserError: they are not as many as the model has pdfs, or negative, not finite, or all zero. ``where`` names
            their file.
    """
    if len(sums) != model.num_pdfs:
        raise UserError(f"{where}: expected a sum for each of {model.num_pdfs} pdfs, found {len(sums)} numbers.")
    values = sums.astype(np.float32)
    total = np.float32(values.sum(dtype=np.float64))
    if not np.isfinite(values).all() or (values < 0).any() or total <= 0:
        raise UserError(f"{where}: expected sums of posteriors, found numbers that are negative, not finite or all 0.")
    priors = np.maximum(values * np.float32(1.0 / float(total)), np.float32(floor))
    lines = _describe_change(model.priors, priors)
    model.priors = priors
    return lines


def _describe_change(old: Array, new: Array) -> list[str]:
    if old.size == 0:
        return ["Model did not previously have priors attached."]
    largest = int(np.argmax(np.abs(new - old)))
    p, q = old.astype(np.float64), new.astype(np.float64)
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    divergence = float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-300))).sum())
    return [
        f"Adjusting priors: largest absolute difference was for pdf {largest}, {old[largest]:.6g} -> "
        f"{new[largest]:.6g}",
        f"Adjusting priors: K-L divergence from old to new is {divergence:.6g}",
    ]
