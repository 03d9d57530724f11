"""The decoding graph HCLG: what may be said, from transition-ids to words, for a model without phonetic context.

G, the grammar, is the lang directory's ``G.fst``, or is made here: any string of the lexicon's words, or exactly one,
all words equally probable. L_disambig comes from the lang directory. L o G is determinised and minimised, as a graph
of phones; then each of its arcs is replaced by the states of that phone's HMM. With no phonetic context, C would map
each phone to itself and is left out.

The graph's input labels are Kaldi's transition-ids and its output labels are word ids, so that Kaldi's decoders can
read it with the same model. An arc's cost is Kaldi's too: with p the probability of staying in the state,

    stay:            -self_loop_scale * log p
    leave by arc a:  -self_loop_scale * log(1 - p) - transition_scale * log(p_a / (1 - p))

Source: Kaldi egs/wsj/s5/utils/mkgraph.sh; src/hmm/hmm-utils.cc, ``GetHmmAsFsa`` and ``AddSelfLoops``.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nnet3py import log
from nnet3py.alignment.recipe_library import import_recipe_library
from nnet3py.decoding.library_transducer import read_vector_transducer
from nnet3py.directories.belonging import (
    TRANSITIONS,
    require_labels,
    require_same_phones,
    require_whole_model,
    transitions_id,
)
from nnet3py.errors import UserError, reason
from nnet3py.nnet.transition_model import TransitionModel, read_transition_model
from nnet3py.tables.named_files import require_input, require_output_folder
from nnet3py.tables.transducer import read_transducer_file
from nnet3py.temporary_files import replacing
from nnet3py.text.lines import encode, read_text, write_text
from nnet3py.text.symbols import read_symbols

if TYPE_CHECKING:
    import kaldifst

GRAMMARS = ("loop", "word")
_MOST_NAMED = 3


def word_grammar(words: dict[str, int], *, loop: bool) -> kaldifst.StdVectorFst:
    """An acceptor of any string of words (``loop``), the empty one included, or of one word, all equally probable.

    Args:
        words: word -> number, reserved symbols (``<eps>``, ``#0``, ``<s>``, ``</s>``) included or not.
    """
    fst = import_recipe_library("kaldifst")
    spoken = [number for word, number in words.items() if not (word[0] == "#" or word[0] == "<" or number == 0)]
    if not spoken:
        raise UserError("The word list has no word but reserved symbols: check words.txt.")
    # A string also ends with a choice, as probable as a word; without it the weights are not probabilities.
    cost = math.log(len(spoken) + (1 if loop else 0))
    grammar = fst.StdVectorFst()
    start = grammar.add_state()
    grammar.start = start
    end = start if loop else grammar.add_state()
    grammar.set_final(end, fst.TropicalWeight(cost if loop else 0.0))
    for number in sorted(spoken):
        grammar.add_arc(start, fst.StdArc(number, number, fst.TropicalWeight(cost), end))
    fst.arcsort(grammar, sort_type="ilabel")
    return grammar


def compile_graph(
    lexicon: kaldifst.StdVectorFst,
    grammar: kaldifst.StdVectorFst,
    disambiguation: Iterable[int],
    transition_model: TransitionModel,
    *,
    transition_scale: float = 1.0,
    self_loop_scale: float = 1.0,
) -> kaldifst.StdVectorFst:
    """HCLG for a transition model in which a phone's states do not depend on its neighbours.

    Args:
        lexicon: L_disambig, phones to words.
        grammar: G, words to words, sorted by input label.
        disambiguation: numbers of the symbols #0, #1, ... on L's input side.

    Raises:
        UserError: the grammar accepts nothing the lexicon can say, a phone has no HMM, or an HMM depends on context.
    """
    fst = import_recipe_library("kaldifst")
    fst.arcsort(lexicon, sort_type="olabel")
    phone_graph = fst.compose(lexicon, grammar)
    if phone_graph.num_states == 0:
        raise UserError(
            "The grammar accepts no word of the lexicon: were G.fst and L_disambig.fst made with one words.txt?"
        )
    if fst.determinize_star(phone_graph):
        raise UserError(
            "The grammar and the lexicon together cannot be determinised: are disambiguation symbols missing?"
        )
    fst.minimize_encoded(phone_graph)
    hmms = {
        phone: _Hmm(transition_model, phone, transition_scale, self_loop_scale)
        for phone in sorted(_input_labels(phone_graph) - set(disambiguation) - {0})
    }
    graph = _expand(phone_graph, hmms)
    fst.connect(graph)
    fst.rmepsilon(graph)
    fst.arcsort(graph, sort_type="ilabel")
    return graph


class _Hmm:
    """One phone's HMM as arcs.

    ``arcs``: (source state, transition-id, cost, destination state); the destination ``end`` is past the last state.
    """

    def __init__(self, model: TransitionModel, phone: int, transition_scale: float, self_loop_scale: float) -> None:
        self.end = len(model.topology.states(phone)) - 1
        self.arcs: list[tuple[int, int, float, int]] = []
        for state, transitions in _transitions(model, phone):
            stay = sum(math.exp(log_prob) for _, target, log_prob in transitions if target == state)
            leave = math.log(max(1.0 - stay, 1e-10))
            for transition_id, target, log_prob in transitions:
                if target == state:
                    cost = -self_loop_scale * log_prob
                else:
                    cost = -self_loop_scale * leave - transition_scale * (log_prob - leave)
                self.arcs.append((state, transition_id, cost, target))


def _expand(phone_graph: kaldifst.StdVectorFst, hmms: dict[int, _Hmm]) -> kaldifst.StdVectorFst:
    """Every arc that bears a phone replaced by that phone's HMM, disambiguation symbols by epsilon.

    The word and the arc's cost are on an epsilon arc into the HMM; removing the epsilons afterwards puts them on the
    first transitions.
    """
    fst = import_recipe_library("kaldifst")
    graph = fst.StdVectorFst()
    for _ in range(phone_graph.num_states):
        graph.add_state()
    graph.start = phone_graph.start
    for state in range(phone_graph.num_states):
        graph.set_final(state, phone_graph.final(state))
        for arc in fst.ArcIterator(phone_graph, state):
            hmm = hmms.get(arc.ilabel)
            if hmm is None:
                graph.add_arc(state, fst.StdArc(0, arc.olabel, arc.weight, arc.nextstate))
                continue
            inside = [graph.add_state() for _ in range(hmm.end)] + [arc.nextstate]
            graph.add_arc(state, fst.StdArc(0, arc.olabel, arc.weight, inside[0]))
            for source, transition_id, cost, target in hmm.arcs:
                graph.add_arc(inside[source], fst.StdArc(transition_id, 0, fst.TropicalWeight(cost), inside[target]))
    return graph


def _transitions(model: TransitionModel, phone: int) -> Iterator[tuple[int, list[tuple[int, int, float]]]]:
    """For each state of a phone, its transitions: (transition-id, destination state, log-probability)."""
    transition_id = 1
    seen: set[int] = set()
    for owner, state, _, _ in model.tuples.tolist():
        targets = [target for target, _ in model.topology.states(owner)[state].transitions]
        if owner == phone:
            if state in seen:
                raise UserError(
                    f"Phone {phone} has several pdfs for its state {state}: its model depends on neighbouring phones, "
                    "and this graph maker is for models that do not. Make the graph with Kaldi's utils/mkgraph.sh."
                )
            seen.add(state)
            yield (
                state,
                [
                    (transition_id + index, target, float(model.log_probs[transition_id + index]))
                    for index, target in enumerate(targets)
                ],
            )
        transition_id += len(targets)
    if not seen:
        raise UserError(f"The model has no states for phone {phone}: it is of another language directory.")


def _input_labels(graph: kaldifst.StdVectorFst) -> set[int]:
    fst = import_recipe_library("kaldifst")
    return {arc.ilabel for state in range(graph.num_states) for arc in fst.ArcIterator(graph, state)}


def make_graph_dir(
    lang_dir: str,
    model_dir: str,
    graph_dir: str,
    *,
    grammar: str = "loop",
    transition_scale: float = 1.0,
    self_loop_scale: float = 1.0,
) -> kaldifst.StdVectorFst:
    """Write ``HCLG.fst``, ``words.txt``, ``phones.txt`` and ``num_pdfs``; see ``steps/make_graph.py``.

    Raises:
        UserError: an input is missing, or they do not fit each other.
    """
    if grammar not in GRAMMARS:
        raise UserError(f"--grammar: expected loop or word, found {grammar!r}.")
    require_input(os.path.join(lang_dir, "L_disambig.fst"))
    require_output_folder(graph_dir)
    phones = read_symbols(os.path.join(lang_dir, "phones.txt"))
    words = read_symbols(os.path.join(lang_dir, "words.txt"))
    path = os.path.join(model_dir, "final.mdl")
    model = read_transition_model(path)
    _require_language_of_model(lang_dir, phones, model_dir, path, model)
    grammar_path = os.path.join(lang_dir, "G.fst")
    _require_symbols(lang_dir)
    lexicon = read_vector_transducer(os.path.join(lang_dir, "L_disambig.fst"))
    given = os.path.exists(grammar_path)
    language_model = read_vector_transducer(grammar_path) if given else word_grammar(words, loop=grammar == "loop")
    _tell_unpronounced(lexicon, language_model, words, grammar_path if given else os.path.join(lang_dir, "words.txt"))
    graph = compile_graph(
        lexicon,
        language_model,
        [number for name, number in phones.items() if name.startswith("#")],
        model,
        transition_scale=transition_scale,
        self_loop_scale=self_loop_scale,
    )
    target = os.path.join(graph_dir, "HCLG.fst")
    try:
        os.makedirs(graph_dir, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)  # first to go, last to come: a graph has the words and phones beside it
        texts = {name: read_text(os.path.join(lang_dir, name)) for name in ("words.txt", "phones.txt")}
        for name, text in {
            **texts,
            "num_pdfs": f"{model.num_pdfs}\n",
            TRANSITIONS: f"{transitions_id(model)}\n",
        }.items():
            write_text(os.path.join(graph_dir, name), text)
        with replacing(target) as temporary:
            graph.write(temporary)
    except OSError as problem:
        raise UserError(f"Cannot write the graph into {graph_dir}: {reason(problem)}.") from problem
    return graph


def _require_symbols(lang_dir: str) -> None:
    """Refuse a lexicon or a grammar with labels that the language's phones.txt and words.txt do not have."""
    words = os.path.join(lang_dir, "words.txt")
    path = os.path.join(lang_dir, "L_disambig.fst")
    lexicon = read_transducer_file(path)
    require_labels(lexicon.ilabels, path, os.path.join(lang_dir, "phones.txt"))
    require_labels(lexicon.olabels, path, words)
    path = os.path.join(lang_dir, "G.fst")
    if os.path.exists(path):
        grammar = read_transducer_file(path)
        require_labels(grammar.ilabels, path, words)
        require_labels(grammar.olabels, path, words)


def _tell_unpronounced(
    lexicon: kaldifst.StdVectorFst, grammar: kaldifst.StdVectorFst, words: dict[str, int], source: str
) -> None:
    """Warn of words of the grammar that no pronunciation leads to: composition drops them without a word."""
    fst = import_recipe_library("kaldifst")
    spoken = {arc.olabel for state in range(lexicon.num_states) for arc in fst.ArcIterator(lexicon, state)}
    silent = _input_labels(grammar) - spoken - {0}
    unsaid = [word for word, number in words.items() if number in silent and not word.startswith("#")]
    names = sorted(unsaid, key=encode)
    if names:
        shown = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
        log.warning(
            f"{len(names)} words of {source} have no pronunciation in L_disambig.fst and are never decoded: {shown}."
        )


def _require_language_of_model(
    lang_dir: str, phones: dict[str, int], model_dir: str, path: str, model: TransitionModel
) -> None:
    """Refuse a language with other phones than the model's, and a model that is not of its own directory."""
    advice = "Make the graph with the language that the model was made with."
    require_same_phones(lang_dir, model_dir, advice)
    require_whole_model(model_dir, path, model)
    spoken = {number for name, number in phones.items() if number and not name.startswith("#")}
    if (known := set(model.topology.phones)) != spoken:
        number = min(known ^ spoken)
        has, lacks = (path, f"{lang_dir}/phones.txt") if number in known else (f"{lang_dir}/phones.txt", path)
        raise UserError(f"The phone {number} of {has} is not in {lacks}. {advice}")
