"""The first transition model, made of a tree and a topology: which states there are, and the topology's probabilities.

A transition state is a tuple (phone, state of its topology, pdf on the way forward, pdf on the self-loop); there is one
for each pdf that the tree may give the state among any neighbours. Tuples are in order, and so transition ids depend on
nothing else.

Source: Kaldi src/hmm/transition-model.cc, ``ComputeTuples`` and ``InitializeProbs``; src/tree/context-dep.cc,
``GetPdfInfo``.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import NO_PDF, Topology, TransitionModel
from nnet3py.nnet.tree import Tree

_Tuple = tuple[int, int, int, int]


def transition_model_of(tree: Tree, topology: Topology) -> TransitionModel:
    """The transition model that training starts from.

    Raises:
        UserError: the tree knows none of the topology's phones.
    """
    is_hmm = topology.is_hmm()
    tuples: set[_Tuple] = set()
    for phone in topology.phones:
        tuples |= _tuples_of_phone(tree, topology, phone) if is_hmm else _tuples_with_two_pdfs(tree, topology, phone)
    if not tuples:
        raise UserError("The tree has no pdf for any phone of the topology: do they belong together?")
    ordered = sorted(tuples)
    log_probs = [0.0]
    for phone, state, _, _ in ordered:
        for _, probability in topology.states(phone)[state].transitions:
            log_probs.append(math.log(min(float(np.float32(probability)), 1.0)))
    return TransitionModel(topology, np.array(ordered, np.int32), np.array(log_probs, np.float32))


def _tuples_of_phone(tree: Tree, topology: Topology, phone: int) -> set[_Tuple]:
    tuples: set[_Tuple] = set()
    for number, state in enumerate(topology.states(phone)):
        if state.forward_pdf_class == NO_PDF:
            continue
        pdfs = tree.pdfs_of(phone, state.forward_pdf_class)
        _warn_if_none(pdfs, phone, number)
        tuples.update((phone, number, pdf, pdf) for pdf in pdfs)
    return tuples


def _tuples_with_two_pdfs(tree: Tree, topology: Topology, phone: int) -> set[_Tuple]:
    tuples: set[_Tuple] = set()
    for number, state in enumerate(topology.states(phone)):
        if state.forward_pdf_class == NO_PDF:
            continue
        pairs = tree.pdf_pairs_of(phone, state.forward_pdf_class, state.self_loop_pdf_class, topology.phones)
        _warn_if_none(pairs, phone, number)
        tuples.update((phone, number, forward, self_loop) for forward, self_loop in pairs)
    return tuples


def _warn_if_none(pdfs: Collection[object], phone: int, state: int) -> None:
    if not pdfs:
        log.warning(
            f"The tree has no pdf for state {state} of phone {phone}: the model will not be able to say that phone."
        )
