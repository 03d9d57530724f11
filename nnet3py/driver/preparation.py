"""What comes before the first iteration: contexts, examples, the decorrelating transform, the initial model.

Source: Kaldi egs/wsj/s5/steps/nnet3/train_dnn.py, steps/libs/nnet3/train/frame_level_objf/common.py
(``compute_preconditioning_matrix``).
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nnet3py import log
from nnet3py.directories.belonging import (
    require_num_pdfs,
    require_output_of_pdfs,
    require_same_extractor,
    require_same_phones,
    require_same_subsampling,
    require_same_tree,
    require_whole_model,
)
from nnet3py.directories.normalisation import NONE, Normalisation, normalisation_of, warn_of_other_normalisation
from nnet3py.driver import prior_scale
from nnet3py.driver.data_used import LEFT_OUT
from nnet3py.driver.data_used import NAME as DATA_USED
from nnet3py.driver.engine import Engine
from nnet3py.driver.examples import FEWEST_EXAMPLES
from nnet3py.driver.experiment import copy_atomically, link_atomically
from nnet3py.driver.made_of import require_complete
from nnet3py.driver.many_files import MOST_NAMED, groups, words_of
from nnet3py.driver.network_shape import inputs_of, output_dim_of
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.stage import DIAGNOSTIC_SETS, Stage
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import read_transition_model
from nnet3py.text.lines import read_lines, read_number, read_text, write_text

_DIAGNOSTIC_MINIBATCH = "1:64"
_KEPT_FOR_DECODING = (
    "cmvn_opts",
    "online_cmvn",
    "global_cmvn.stats",
    "info/final.ie.id",
    "info/frame_subsampling_factor",
)
"""Files among the examples that Kaldi's steps/nnet3/decode.sh, and ours, look for beside the model."""


@dataclass(frozen=True)
class Egs:
    """A directory of examples, as its info/ describes it.

    ``most_egs``: the smallest archive has no more examples; very large where it is not known.
    """

    folder: str
    num_archives: int
    frames_per_eg: int
    left_context: int
    right_context: int
    most_egs: int = 1 << 30


class Preparation(Stage):
    """Each method does its part if the result is missing; the caller decides on the order."""

    def __init__(self, options: TrainingOptions, engine: Engine, get_egs: str) -> None:
        """``get_egs`` is the program that makes examples."""
        super().__init__(options, engine)
        self.get_egs = get_egs
        self.egs_folder = options.egs_dir or f"{options.dir}/egs"

    def copy_alignment_files(self) -> None:
        """What decoding compares with the graph and the data: phones, the tree, the number of jobs."""
        for name in ("phones.txt", "tree", "num_jobs"):
            self._copy_or_remove(f"{self.options.ali_dir}/{name}", name)

    def context(self) -> tuple[int, int]:
        """The network's context: from configs/vars, or from the network that can be made before the examples."""
        if self.options.lda_dim > 0 and (self.options.input_model or not self.experiment.has("configs/init.config")):
            raise UserError(
                "--trainer.lda.dim is given, but no transform will be estimated: that needs a network that is the "
                f"input alone, {self.options.dir}/configs/init.config, and no --trainer.input-model."
            )
        if self.options.input_model:
            return self._context_of(self.options.input_model)
        if self._initial_config() is None:
            raise UserError(f"Expected {self.options.dir}/configs/final.config, found no such file.")
        if self.experiment.has("configs/init.config") and not self.experiment.has("init.raw"):
            self._run(
                "nnet_init",
                ["nnet-init", "--srand=0", self.experiment.path("configs/init.config"), self._raw("init")],
                "Making the network that splices frames",
            )
        if self.experiment.has("configs/vars"):
            return _read_vars(self.experiment.path("configs/vars"))
        if self.experiment.has("init.raw"):
            return self._context_of(self._raw("init"))
        if not self.experiment.has("0.raw"):
            self._initialise()
        return self._context_of(self._raw(0))

    def check_inputs(self) -> None:
        """Compare the network's inputs with the features and iVectors that there are, before examples are made.

        Raises:
            UserError: an input has nothing to come from, or another dimension.
        """
        wanted = inputs_of(*self._shape)
        self._check_output()
        if not wanted or self.options.egs_dir or self.experiment.has("egs/.complete"):
            return
        folder = self.options.online_ivector_dir
        found = {"input": self._dimension_of(f"{self.options.feat_dir}/feats.scp")}
        if folder:
            found["ivector"] = self._dimension_of(f"{folder}/ivector_online.scp")
        _require_inputs(wanted, found, {"input": f"{self.options.feat_dir}/feats.scp", "ivector": folder})

    def _check_output(self) -> None:
        """Compare the alignments' model with what is beside it, and the network's output with its number of pdfs."""
        ali_dir, num_pdfs, path = self.options.ali_dir, None, f"{self.options.ali_dir}/num_pdfs"
        if self._has_transitions():
            path = f"{ali_dir}/final.mdl"
            model = read_transition_model(path)
            require_whole_model(ali_dir, path, model)
            num_pdfs = model.num_pdfs
        elif os.path.isfile(path):
            num_pdfs = read_number(path)
        if num_pdfs is not None:
            self._require_pdfs(self._shape, num_pdfs, path)

    def _require_pdfs(self, shape: tuple[list[str], str], num_pdfs: int, whose: str) -> None:
        """Compare the output of a network, as :mod:`nnet3py.driver.network_shape` reads it, with a number of pdfs."""
        if (dim := output_dim_of(*shape)) is not None:
            advice = f"Make the network with an output of dimension {num_pdfs}, or give the alignments that it is for."
            require_output_of_pdfs(dim, shape[1], num_pdfs, whose, advice)

    @functools.cached_property
    def _shape(self) -> tuple[list[str], str]:
        """The lines that describe the network, of its configuration or of the given model, and where they are from."""
        if self.options.input_model:
            self._run("input_model", ["nnet-info", self.options.input_model], "Finding the inputs of the model")
            return read_lines(self.experiment.log("input_model")), self.options.input_model
        lines = []
        for name in ("configs/init.config", self._initial_config_name()):
            if name and self.experiment.has(name):
                lines += read_lines(self.experiment.path(name))
        return lines, f"{self.options.dir}/configs"

    def _dimension_of(self, script: str) -> int:
        if not os.path.isfile(script):
            raise UserError(f"There is no {script}: make features, or vectors, of this data first.")
        name = os.path.basename(script).removesuffix(".scp")
        target = self.experiment.path(f"{name}.dim")
        self._run(f"dim_{name}", ["feat-to-dim", f"scp:{script}", target], f"Finding the dimension of {script}")
        dim = read_number(target, least=1)
        self.experiment.remove(f"{name}.dim")
        return dim

    def make_egs(self, context: tuple[int, int]) -> None:
        """Make the examples with the program for it, with as much context as the network needs."""
        options = self.options
        if options.egs_dir or self.experiment.has("egs/.complete"):
            return
        log.log(f"Making examples in {self.egs_folder}")
        words = {
            "--cmd": options.egs_command or options.command,
            "--cmvn-opts": options.cmvn_opts,
            "--online-ivector-dir": options.online_ivector_dir,
            "--left-context": context[0] + options.chunk_left_context,
            "--right-context": context[1] + options.chunk_right_context,
            "--samples-per-iter": options.samples_per_iter,
            "--left-context-initial": _at_the_edge(context[0], options.chunk_left_context_initial),
            "--right-context-final": _at_the_edge(context[1], options.chunk_right_context_final),
            "--frames-per-eg": options.frames_per_eg,
            "--srand": options.srand,
            "--stage": options.egs_stage,
            "--max-retries": options.max_retries,
        }
        command = [self.get_egs, "--print-args=false", *(f"{name}={value}" for name, value in words.items())]
        command += [*shlex.split(options.egs_opts), options.feat_dir, options.ali_dir, self.egs_folder]
        self._run_step(command, "Making examples")

    def read_egs(self, context: tuple[int, int]) -> Egs:
        """The examples there are. Raises UserError if they are not whole or do not fit the network and the options."""
        folder = self.egs_folder
        require_complete(folder)

        def number(name: str) -> int:
            path = f"{folder}/info/{name}"
            try:
                return int(read_text(path).split(",")[0])
            except ValueError:
                raise UserError(f"Expected a number in {path}, found none. Is {folder} complete?") from None

        egs = Egs(folder, *(number(n) for n in ("num_archives", "frames_per_eg", "left_context", "right_context")))
        if os.path.isfile(f"{folder}/info/{FEWEST_EXAMPLES}"):
            egs = replace(egs, most_egs=number(FEWEST_EXAMPLES))
        elif os.path.isfile(f"{folder}/info/egs_per_archive"):
            # By numbers of frames; where short utterances' examples overlap, there are more than these would tell.
            egs = replace(egs, most_egs=2 * number("egs_per_archive") + 1)
        if egs.frames_per_eg != self.options.frames_per_eg:
            raise UserError(
                f"The examples in {folder} have {egs.frames_per_eg} frames each, --egs.frames-per-eg is "
                f"{self.options.frames_per_eg}: give that number, or examples that were cut with it."
            )
        self._require_context(egs, context)
        self._require_same_origin(folder)
        for name in ["valid_diagnostic.egs", "train_diagnostic.egs", "combine.egs", "egs.1.ark"]:
            if not os.path.isfile(f"{folder}/{name}"):
                raise UserError(f"Expected {folder}/{name}, found no such file: make the examples again (--stage -4).")
        for name in _KEPT_FOR_DECODING:
            self._copy_or_remove(f"{folder}/{name}", os.path.basename(name))
        os.makedirs(self.experiment.path("info"), exist_ok=True)
        for name in (DATA_USED, LEFT_OUT):
            self._copy_or_remove(f"{folder}/info/{name}", f"info/{name}")
        return egs

    def _copy_or_remove(self, source: str, name: str) -> None:
        """Copy a file into the directory; what an earlier run has left of one that is not there, goes."""
        if os.path.isfile(source):
            copy_atomically(source, self.experiment.path(name))
        else:
            self.experiment.remove(name)

    def _require_same_origin(self, folder: str) -> None:
        """Refuse examples that are not of these alignments, this normalisation and these inputs."""
        options = self.options
        advice = "Give the alignments that the examples were made of, or make the examples anew (--stage -4)."
        require_same_phones(folder, options.ali_dir, advice)
        require_same_tree(folder, options.ali_dir, advice)
        if os.path.isfile(path := f"{folder}/info/num_pdfs"):
            num_pdfs = read_number(path)
            require_num_pdfs(options.ali_dir, num_pdfs, path, advice)
            self._require_pdfs(self._shape, num_pdfs, path)
        require_same_subsampling(
            f"{options.ali_dir}/frame_subsampling_factor", f"{folder}/info/frame_subsampling_factor", advice
        )
        if options.online_ivector_dir:
            require_same_extractor(options.online_ivector_dir, f"{folder}/info")
        given = Normalisation(options.cmvn_opts, source="--feat.cmvn-opts")
        if os.path.isfile(f"{folder}/cmvn_opts") and given.effect() != Normalisation(NONE).effect():
            made = normalisation_of(folder)
            if made.effect() != replace(given, online=made.online).effect():
                raise UserError(
                    f"The examples in {folder} were normalised with {made}, and training is told {given}: give the "
                    "same, or make the examples anew (--stage -4)."
                )
        if options.input_model:
            warn_of_other_normalisation(os.path.dirname(options.input_model) or ".", folder)
        wanted = inputs_of(*self._shape)
        if not wanted:
            return
        found = {"input": read_number(f"{folder}/info/feat_dim")}
        if ivector_dim := read_number(f"{folder}/info/ivector_dim"):
            found["ivector"] = ivector_dim
        _require_inputs(wanted, found, dict.fromkeys(("input", "ivector"), folder))

    def make_initial_model(self, egs: Egs) -> None:
        """Model 0: a copy of the given one, or a random one, with the decorrelating transform if one is asked for."""
        if self.experiment.last_model() is not None:
            return
        if self.options.input_model:
            copy_atomically(self.options.input_model, self._raw(0))
            return
        if self.experiment.has("configs/init.config") and not self.experiment.has("lda.mat"):
            self._estimate_transform(egs)
        self._initialise()

    def check_context(self, egs: Egs) -> None:
        """The initial model itself has the last word on its context and output; asked once, when it is new."""
        if self.experiment.last_model() == 0 and not self.experiment.has("progress.tsv"):
            self._require_context(egs, self._context_of(self._raw(0)))
            if os.path.isfile(path := f"{egs.folder}/info/num_pdfs"):
                self._require_pdfs((read_lines(self.experiment.log("context")), self._raw(0)), read_number(path), path)

    def merge_diagnostic_sets(self, egs: Egs, labels: int = 0) -> None:
        """Lay the diagnostic sets out in minibatches once, not again in every iteration.

        ``labels``: the iteration whose realignment the examples are of, 0 for none.
        """
        running = []
        for kind in DIAGNOSTIC_SETS:
            name = self._minibatches(kind, labels)
            if not self.experiment.has(name):
                size = f"--minibatch-size={_DIAGNOSTIC_MINIBATCH}"
                source, target = f"ark:{egs.folder}/{kind}_diagnostic.egs", f"ark:{self.experiment.path(name)}"
                command = ["nnet-merge-egs", size, source, target]
                path = self.experiment.log(f"merge_{kind}_diagnostic")
                running.append(self.engine.start(path, command, what=f"Merging the {kind} diagnostic set"))
        for jobs in running:
            jobs.wait()

    def _initial_config_name(self) -> str | None:
        found = [n for n in ("configs/final.config", "configs/layer1.config") if self.experiment.has(n)]
        if len(found) > 1:
            raise UserError(
                f"{self.options.dir} has both {found[0]}, a whole network, and {found[1]}, one to grow: remove the one "
                "that is left over from another network."
            )
        return found[0] if found else None

    def _initial_config(self) -> str | None:
        name = self._initial_config_name()
        return self.experiment.path(name) if name else None

    def _context_of(self, model: str) -> tuple[int, int]:
        self._run("context", ["nnet-info", model], f"Finding the context of {model}")
        text = read_text(self.experiment.log("context"))
        found = dict(re.findall(r"^(left|right)-context: (\d+)", text, re.MULTILINE))
        if len(found) != 2:
            raise UserError(f"nnet-info does not say the context of {model}; see {self.experiment.log('context')}.")
        return int(found["left"]), int(found["right"])

    def _require_context(self, egs: Egs, context: tuple[int, int]) -> None:
        if egs.left_context < context[0] or egs.right_context < context[1]:
            raise UserError(
                f"The network needs {context[0]} frames on the left and {context[1]} on the right, the examples in "
                f"{egs.folder} have {egs.left_context} and {egs.right_context}. Write model_left_context={context[0]} "
                f"and model_right_context={context[1]} into {self.options.dir}/configs/vars and make them again "
                "(--stage -4)."
            )

    def _estimate_transform(self, egs: Egs) -> None:
        """The transform that decorrelates the spliced input, held fixed as the first layer (appendix C.6)."""
        jobs = min(egs.num_archives, self.options.max_lda_jobs)
        log.log("Estimating the transform that decorrelates the input")
        self._run(
            "get_lda_stats.JOB",
            [
                "nnet-acc-lda-stats",
                f"--rand-prune={self.options.rand_prune:g}",
                self._raw("init"),
                f"ark:{egs.folder}/egs.JOB.ark",
                self.experiment.path("JOB.lda_stats"),
            ],
            "Accumulating the transform's statistics",
            jobs=jobs,
        )
        parts = [self.experiment.path(f"{job}.lda_stats") for job in range(1, jobs + 1)]
        sums = self.sums_of_statistics(parts)
        self._run(
            "get_transform",
            [
                "nnet-get-feature-transform",
                f"--dim={self.options.lda_dim}",
                f"--within-class-factor={self.options.lda_within_class_factor:g}",
                f"--max-singular-value={self.options.lda_max_singular_value:g}",
                self.experiment.path("lda.mat"),
                *sums,
            ],
            "Estimating the transform",
        )
        self._remove_files(sums)

    def sums_of_statistics(self, parts: list[str]) -> list[str]:
        """Files with the same statistics, which replace ``parts`` if those are more than one command names.

        Raises:
            UserError: a job has failed.
        """
        if len(parts) <= MOST_NAMED:
            return parts
        bounds = groups(len(parts))
        sums = [self.experiment.path(f"group{number}.lda_stats") for number in range(1, len(bounds) + 1)]
        lists = [f"{path}.list" for path in sums]
        for path, (first, end) in zip(lists, bounds, strict=True):
            write_text(path, "\n".join(parts[first:end]) + "\n")
        target = self.experiment.path("groupJOB.lda_stats")
        command = ["nnet-sum-lda-stats", target, words_of(f"{target}.list")]
        self._run("sum_lda_stats.JOB", command, "Adding up the transform's statistics", jobs=len(sums))
        self._remove_files([*parts, *lists])
        return sums

    def _remove_files(self, paths: list[str]) -> None:
        self.experiment.remove(*(os.path.basename(path) for path in paths))

    def _initialise(self) -> None:
        """Make 0.raw of final.config; matrices that it names are found in the directory and in configs/."""
        config = self._initial_config()
        assert config is not None
        if self.experiment.has("lda.mat"):
            link_atomically("../lda.mat", self.experiment.path("configs/lda.mat"))
        if prior_scale.is_named(self.experiment):
            power = self.options.presoftmax_prior_scale_power
            prior_scale.compute(self.experiment, self.engine, self.options.ali_dir, power)
        base = [self._raw("init")] if self.experiment.has("init.raw") else []
        self._run(
            "add_first_layer" if base else "init_model",
            ["nnet-init", f"--srand={self.options.srand}", *base, config, self._raw(0)],
            "Making the initial model",
        )


def _require_inputs(wanted: Mapping[str, int], found: Mapping[str, int], places: Mapping[str, str]) -> None:
    """Compare a network's inputs with what there is for them, ``found`` in ``places``. Raises UserError."""
    for name in sorted({*wanted, *found}):
        if name not in found:
            advice = "give --feat.online-ivector-dir" if name == "ivector" else "examples have input and ivector alone"
            raise UserError(
                f"The network has an input '{name}' of dimension {wanted[name]}, and there is nothing to come in: "
                f"{advice}."
            )
        if name not in wanted:
            advice = "leave out --feat.online-ivector-dir" if name == "ivector" else "see configs/"
            raise UserError(f"The network has no input '{name}', for which there is {places[name]}: {advice}.")
        if wanted[name] != found[name]:
            raise UserError(
                f"The network's input '{name}' has dimension {wanted[name]}, what comes in has {found[name]} "
                f"({places[name]}): these are not of one recipe."
            )


def _at_the_edge(context: int, chunk_context: int) -> int:
    """Frames of context at an utterance's edge; negative where it is what it is elsewhere."""
    return context + chunk_context if chunk_context >= 0 else -1


def _read_vars(path: str) -> tuple[int, int]:
    """The context that configs/vars states."""
    found = dict(re.findall(r"^\s*(?:model_)?(left|right)_context\s*=\s*(\d+)\s*$", read_text(path), re.MULTILINE))
    if len(found) != 2:
        raise UserError(f"{path}: expected the lines model_left_context=... and model_right_context=...")
    return int(found["left"]), int(found["right"])
