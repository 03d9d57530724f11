"""Which utterances examples can be made of: found by their lengths, before any of them is drawn or cut."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from nnet3py.directories.data import DataDirectory
from nnet3py.driver.data_used import DataUsed
from nnet3py.driver.engine import Engine
from nnet3py.driver.example_sources import ExampleSources
from nnet3py.egs.cut import InputConfig, ivectors_fit
from nnet3py.egs.utterance_splitter import ChunkConfig, UtteranceSplitter, targets_fit
from nnet3py.errors import UserError
from nnet3py.text.lines import joined, read_number, read_table, write_text

_MOST_COUNTED = 100


class UsableUtterances:
    """Counts frames, labels and iVectors in jobs, and compares them."""

    def __init__(self, sources: ExampleSources, engine: Engine, folder: str) -> None:
        """``folder`` is the directory of examples, where logs and ``split/`` are."""
        self.sources = sources
        self._engine = engine
        self._folder = folder
        self._split = f"{folder}/split"

    def account(self, alignments: Mapping[str, str]) -> DataUsed:
        """How long utterances are, and which cannot be used and why."""
        options = self.sources.options
        both = {utterance: alignments[utterance] for utterance in self.sources.features if utterance in alignments}
        if not both:
            raise UserError(
                f"No utterance of {self.sources.data}/feats.scp has an alignment in {self.sources.ali_dir}."
            )
        lengths, aligned = self._lengths_of_features(), self._lengths_of_alignments(both)
        used = DataUsed(list(self.sources.features), lengths)
        used.leave_out((each for each in self.sources.features if each not in both), "no alignment")
        for utterance, reason in self.sources.normalisation.without_statistics(
            list(self.sources.features), self.sources.data
        ).items():
            used.leave_out([utterance], reason)
        if options.online_ivector_dir:
            used.leave_out((each for each in self.sources.features if each not in self.sources.ivectors), "no iVectors")
            self._leave_out_other_lengths(used)
        factor = options.frame_subsampling_factor
        splitter = UtteranceSplitter(
            ChunkConfig(ChunkConfig.parse_num_frames(options.frames_per_eg, factor), frame_subsampling_factor=factor)
        )
        used.leave_out((utterance for utterance in both if not lengths[utterance]), "no frames")
        self._check_lengths(lengths, [u for u in both if not targets_fit(lengths[u], aligned[u], factor)])
        for utterance in both:
            if not targets_fit(lengths[utterance], aligned[utterance], factor):
                used.leave_out([utterance], "an alignment of another length")
            elif not splitter.can_split(lengths[utterance]):
                used.leave_out([utterance], f"shorter than --frames-per-eg={options.frames_per_eg}")
        return used

    def _leave_out_other_lengths(self, used: DataUsed) -> None:
        """Leave out the utterances whose iVectors, counted by a job, are too many or too few."""
        folder = self.sources.options.online_ivector_dir
        config = InputConfig(online_ivector_period=read_number(f"{folder}/ivector_period"))
        script, target = f"{self._split}/ivector.len.scp", f"{self._split}/ivector.len"
        wanted = [each for each in self.sources.features if each in self.sources.ivectors]
        if not wanted:
            return
        write_text(script, joined(f"{each} {self.sources.ivectors[each]}" for each in wanted))
        self._run("ivector_len", ["feat-to-len", f"scp:{script}", f"ark,t:{target}"], "Counting iVectors")
        for utterance, count in _read_lengths([target]).items():
            if not ivectors_fit(used.lengths[utterance], count, config):
                used.leave_out([utterance], "iVectors of another length")

    def _check_lengths(self, lengths: Mapping[str, int], doubtful: Sequence[str]) -> None:
        """Count the frames of some utterances whose alignment does not fit: utt2num_frames may be of other features.

        Raises:
            UserError: it is.
        """
        if not doubtful or not os.path.isfile(f"{self.sources.data}/utt2num_frames"):
            return
        for utterance, length in self._count_frames("check_frames", doubtful[:_MOST_COUNTED]).items():
            if length != lengths[utterance]:
                raise UserError(
                    f"{self.sources.data}/utt2num_frames says that {utterance} has {lengths[utterance]} frames, its "
                    f"features have {length}: it is left over from other features. Remove it, or make it again with "
                    "feat-to-len."
                )

    def _lengths_of_features(self) -> dict[str, int]:
        """Frames of each utterance: as utt2num_frames says, or counted by jobs."""
        lengths = DataDirectory(self.sources.data).lengths()
        if all(utterance in lengths for utterance in self.sources.features):
            return {utterance: lengths[utterance] for utterance in self.sources.features}
        return self._count_frames("num_frames", list(self.sources.features))

    def _count_frames(self, name: str, utterances: Sequence[str]) -> dict[str, int]:
        jobs = min(self.sources.options.nj, len(utterances))
        for job in range(jobs):
            part = utterances[job * len(utterances) // jobs : (job + 1) * len(utterances) // jobs]
            write_text(
                f"{self._split}/len.{job + 1}.scp", joined(f"{each} {self.sources.features[each]}" for each in part)
            )
        command = ["feat-to-len", f"scp:{self._split}/len.JOB.scp", f"ark,t:{self._split}/len.JOB"]
        self._run(f"{name}.JOB", command, "Counting frames", jobs=jobs)
        return _read_lengths(f"{self._split}/len.{job}" for job in range(1, jobs + 1))

    def _lengths_of_alignments(self, alignments: Mapping[str, str]) -> dict[str, int]:
        """Labels of each utterance, counted by a job."""
        script, target = f"{self._split}/ali.len.scp", f"{self._split}/ali.len"
        write_text(script, joined(f"{utterance} {place}" for utterance, place in alignments.items()))
        self._run("ali_len", ["ali-to-len", f"scp:{script}", f"ark,t:{target}"], "Counting the labels of alignments")
        return _read_lengths([target])

    def _run(self, name: str, command: list[str], what: str, *, jobs: int | None = None) -> None:
        self._engine.run(f"{self._folder}/log/{name}.log", command, what=what, jobs=jobs)


def _read_lengths(paths: Iterable[str]) -> dict[str, int]:
    return {utterance: int(length) for path in paths for utterance, length in read_table(path).items()}
