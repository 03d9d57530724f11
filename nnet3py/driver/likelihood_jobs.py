"""Jobs that compute a network's log-likelihoods for a data directory: what decoding and alignment begin with.

Source: Kaldi egs/wsj/s5/steps/nnet3/decode.sh, steps/nnet3/align.sh.
"""

from __future__ import annotations

import os
import shlex

from nnet3py import log
from nnet3py.directories.belonging import require_dimension, require_output_of_pdfs, require_same_extractor
from nnet3py.directories.data import DataDirectory
from nnet3py.directories.dimensions import first_columns
from nnet3py.directories.normalisation import normalisation_of
from nnet3py.driver.data_used import DataUsed
from nnet3py.driver.engine import require_plain_words
from nnet3py.driver.options import NetworkJobOptions
from nnet3py.driver.split_data import split_features
from nnet3py.errors import UserError
from nnet3py.nnet.acoustic_model import read_acoustic_model
from nnet3py.text.lines import read_number, read_table


class LikelihoodJobs:
    """The log-likelihoods of one data directory by one model.

    Attributes:
        acoustic_model: what the model's file holds.
        features: utterance -> where its features are.
        used: the account of the utterances, with those left out that no job will have.
    """

    def __init__(
        self, options: NetworkJobOptions, data_dir: str, model: str, folder: str, *, use_priors: bool = True
    ) -> None:
        """Look at all that the jobs will need.

        Args:
            model: the acoustic model's file; what belongs to it is beside it.
            folder: where jobs find their parts.
            use_priors: whether the priors in the model are divided by.

        Raises:
            UserError: something is missing, or does not belong to the model.
        """
        self.options = options
        self.data = DataDirectory(data_dir)
        self.model = model
        self.model_dir = os.path.dirname(model) or "."
        self.folder = folder
        self.use_priors = use_priors
        self.acoustic_model = read_acoustic_model(model)
        if (
            use_priors
            and self.acoustic_model.priors.size == 0
            and self.acoustic_model.transition_model.topology.is_hmm()
        ):
            log.warning(f"{model} has no priors: the network's posteriors are taken for likelihoods.")
        self.features = self.data.features()
        self.normalisation = normalisation_of(self.model_dir, options.cmvn_opts)
        require_plain_words(self.normalisation.source, self.normalisation.options)
        self.normalisation.require(data_dir, self.model_dir)
        self._require_dimensions(data_dir)
        self.used = DataUsed(list(self.features), self.data.lengths())
        self.used.leave_out_empty()
        for utterance, reason in self.normalisation.without_statistics(list(self.features), data_dir).items():
            self.used.leave_out([utterance], reason)
        self._ivectors = self._ivector_options()
        self._speaker_of: dict[str, str] | None = None
        if self.normalisation.online and not self.normalisation.does_nothing:
            self._speaker_of = self.data.speakers(self.features, "normalisation as in training")

    def _require_dimensions(self, data_dir: str) -> None:
        """Compare the model's parts with each other, and its input with the features and their statistics."""
        acoustic_model, script = self.acoustic_model, f"{data_dir}/feats.scp"
        require_output_of_pdfs(
            acoustic_model.num_pdfs,
            self.model,
            acoustic_model.transition_model.num_pdfs,
            "its transition model",
            "Make the model of a network and a transition model of one training.",
        )
        dim = acoustic_model.network.input_dim("input")
        require_dimension(first_columns(script), script, dim, f"the network of {self.model} takes features")
        self.normalisation.require_dimension(dim, f"the input of {self.model}", data_dir, self.model_dir)

    def split(self) -> int:
        """Write the jobs' parts; returns how many jobs there are."""
        usable = self.used.usable(self.features, self.data.path)
        return split_features(usable, self.folder, self.options.nj, self._speaker_of)

    def command(self) -> list[str]:
        """The command that computes the log-likelihoods of job ``JOB``, but for its output."""
        options, folder = self.options, self.folder
        features = f"scp:{folder}/feats.JOB.scp"
        normalising = self.normalisation.command(
            features,
            data_dir=self.data.path,
            spk2utt=f"{folder}/spk2utt.JOB",
            statistics=f"{self.model_dir}/global_cmvn.stats",
        )
        return [
            "nnet-compute",
            f"--use-priors={'true' if self.use_priors else 'false'}",
            f"--use-gpu={options.use_gpu}",
            f"--frames-per-chunk={options.frames_per_chunk}",
            f"--extra-left-context={options.extra_left_context}",
            f"--extra-right-context={options.extra_right_context}",
            f"--extra-left-context-initial={options.extra_left_context_initial}",
            f"--extra-right-context-final={options.extra_right_context_final}",
            *self._subsampling(),
            *self._ivectors,
            self.model,
            f"ark,s,cs:{normalising} |" if normalising else features,
        ]

    def rspecifier(self) -> str:
        """What :meth:`command` writes, as a table to read."""
        return f"ark:{' '.join(map(_in_pipe, self.command()))} ark:- |"

    def _subsampling(self) -> list[str]:
        path = f"{self.model_dir}/frame_subsampling_factor"
        return [f"--frame-subsampling-factor={read_number(path, least=1)}"] if os.path.isfile(path) else []

    def _ivector_options(self) -> list[str]:
        """The options for iVectors, if the network has an input for them; they must be the training's extractor's."""
        folder, network = self.options.online_ivector_dir, self.acoustic_model.network
        wanted = network.input_dim("ivector") if network.has_input("ivector") else 0
        if not folder:
            if wanted:
                raise UserError(
                    f"The network of {self.model} has an input 'ivector' of dimension {wanted}: give "
                    "--online-ivector-dir, a directory with such iVectors of these data."
                )
            return []
        if not wanted:
            raise UserError(
                f"The network of {self.model} has no input 'ivector': leave out --online-ivector-dir={folder}."
            )
        require_same_extractor(folder, self.model_dir)
        script = f"{folder}/ivector_online.scp"
        require_dimension(first_columns(script), script, wanted, f"the network of {self.model} takes iVectors")
        period = read_number(f"{folder}/ivector_period", least=1)
        ivectors = read_table(script)
        self.used.leave_out((each for each in self.features if each not in ivectors), "no iVectors")
        return [f"--online-ivectors=scp:{script}", f"--online-ivector-period={period}"]


def _in_pipe(word: str) -> str:
    return shlex.quote(word) if any(c in word for c in " |&;<>()$`\"'") else word
