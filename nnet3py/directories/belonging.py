"""What must belong together, compared where it meets: phones, trees, transition models, numbers of pdfs, extractors.

Numbers stand for phones, pdfs and transitions in every file, and any file can be read beside any other: what was made
of other phones, or of another tree, is decoded and trained with all the same, to no purpose. So two directories that
meet are compared in all that both of them say. An error names both.

Source: Kaldi egs/wsj/s5/utils/lang/check_phones_compatible.sh, steps/nnet2/check_ivectors_compatible.sh.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, fields, read_number, read_text
from nnet3py.text.symbols import read_symbols

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nnet3py.nnet.transition_model import TransitionModel
    from nnet3py.tables.transducer import Transducer

TRANSITIONS = "transitions.id"
"""The file of a graph's directory that says which transition model the graph is of."""

_MOST_SHOWN = 4  # pdfs in a message


def require_same_phones(first: str, second: str, advice: str) -> None:
    """Compare the phones of two directories, where both have ``phones.txt``; disambiguation symbols do not count.

    Raises:
        UserError: a phone of one is not in the other, or has another number there.
    """
    paths = [f"{each}/phones.txt" for each in (first, second)]
    if not all(map(os.path.isfile, paths)):
        return
    ours, theirs = ({phone: n for phone, n in read_symbols(path).items() if phone[0] != "#"} for path in paths)
    if ours == theirs:
        return
    phone = min({*ours.items()} ^ {*theirs.items()}, key=lambda item: (item[1], item[0]))[0]
    places = [
        f"{phone!r} is {table[phone]} in {path}" if phone in table else f"{phone!r} is not in {path}"
        for table, path in zip((ours, theirs), paths, strict=True)
    ]
    raise UserError(f"The phones of {paths[0]} and {paths[1]} differ: {', '.join(places)}. {advice}")


def require_same_tree(first: str, second: str, advice: str) -> None:
    """Compare the trees of two directories, where both have ``tree``.

    Raises:
        UserError: they differ, or one cannot be read.
    """
    paths = [f"{each}/tree" for each in (first, second)]
    if not all(map(os.path.isfile, paths)):
        return
    contents = []
    for path in paths:
        with open(path, "rb") as file:
            contents.append(file.read())
    if contents[0] == contents[1]:
        return
    from nnet3py.nnet.tree import read_tree

    ours, theirs = map(read_tree, paths)
    if ours != theirs:
        raise UserError(
            f"{paths[0]} and {paths[1]} are different trees, of {ours.num_pdfs} and {theirs.num_pdfs} pdfs. {advice}"
        )


def require_tree_of_model(tree: str, path: str, model: TransitionModel, advice: str) -> None:
    """Compare the tree in a file with the transition model of the file ``path``: the pdfs of each state of each phone.

    ``advice`` ends the sentence.

    Raises:
        UserError: they differ, or the tree cannot be read.
    """
    from nnet3py.nnet.transition_model import NO_PDF
    from nnet3py.nnet.tree import read_tree

    found = read_tree(tree)
    if found.num_pdfs != model.num_pdfs:
        raise UserError(f"{tree} has {found.num_pdfs} pdfs, {path} has {model.num_pdfs}: {advice}")
    known: dict[tuple[int, int, int], set[int]] = {}
    for phone, state, forward, self_loop in model.tuples.tolist():
        known.setdefault((phone, state, 0), set()).add(forward)
        known.setdefault((phone, state, 1), set()).add(self_loop)
    exactly = model.topology.is_hmm()  # with two pdfs a state, not every pair of what the tree has can come
    for phone in model.topology.phones:
        for number, state in enumerate(model.topology.states(phone)):
            for which, pdf_class in enumerate((state.forward_pdf_class, state.self_loop_pdf_class)):
                if pdf_class == NO_PDF:
                    continue
                ours, theirs = set(found.pdfs_of(phone, pdf_class)), known.get((phone, number, which), set())
                if not (ours == theirs if exactly else ours >= theirs):
                    raise UserError(
                        f"State {number} of phone {phone} has {_some_pdfs(ours)} by {tree}, {_some_pdfs(theirs)} by "
                        f"{path}: {advice}"
                    )


def _some_pdfs(pdfs: set[int]) -> str:
    """Pdfs in few words."""
    words = [str(pdf) for pdf in sorted(pdfs)[:_MOST_SHOWN]] + ["..."] * (len(pdfs) > _MOST_SHOWN)
    return f"the pdf{'s' if len(pdfs) > 1 else ''} {', '.join(words)}" if words else "no pdf"


def require_whole_model(directory: str, path: str, model: TransitionModel) -> None:
    """Compare ``tree`` and ``num_pdfs`` of a directory, where it has them, with its model, that of the file ``path``.

    Raises:
        UserError: one of them is of another model.
    """
    require_num_pdfs(directory, model.num_pdfs, path, "Put the model and what was made with it together again.")
    if os.path.isfile(f"{directory}/tree"):
        advice = "put the tree and the model that was made with it together again."
        require_tree_of_model(f"{directory}/tree", path, model, advice)


def require_output_of_pdfs(dim: int, network: str, num_pdfs: int, whose: str, advice: str) -> None:
    """Compare a network's output with the number of pdfs of ``whose``; ``network`` says where the network is.

    Raises:
        UserError: they differ.
    """
    if dim != num_pdfs:
        raise UserError(
            f"The network in {network} has the output dimension {dim}, {whose} has {num_pdfs} pdfs. {advice}"
        )


def require_dimension(dim: int | None, script: str, wanted: int, whose: str) -> None:
    """Compare the dimension of what is in a script with the one that ``whose`` input has; None: it is not known.

    Raises:
        UserError: they differ.
    """
    if dim is not None and dim != wanted:
        raise UserError(
            f"{script} has dimension {dim}, {whose} of dimension {wanted}: make these as for the data that the model "
            "was trained on."
        )


def require_labels(labels: NDArray[np.int32], source: str, table: str, others: Collection[int] = ()) -> None:
    """Compare a transducer's labels on one side, those of the file ``source``, with a symbol table.

    ``others``: labels that need not be in it. The label 0 is no symbol.

    Raises:
        UserError: a label is not in the table, or the table cannot be read.
    """
    import numpy as np

    unknown = np.setdiff1d(labels, [0, *read_symbols(table).values(), *others])
    if len(unknown):
        raise UserError(
            f"{source} has the label {unknown.max()}, which {table} has no symbol for: they are of two languages."
        )


def require_same_subsampling(first: str, second: str, advice: str) -> None:
    """Compare two files ``frame_subsampling_factor``, where both are there.

    Raises:
        UserError: they say different numbers.
    """
    if all(map(os.path.isfile, (first, second))):
        ours, theirs = read_number(first, least=1), read_number(second, least=1)
        if ours != theirs:
            raise UserError(f"{first} says {ours}, {second} says {theirs}. {advice}")


def require_num_pdfs(directory: str, num_pdfs: int, whose: str, advice: str) -> None:
    """Compare a number of pdfs, that of ``whose``, with the one in a directory's ``num_pdfs``, where it has one.

    Raises:
        UserError: they differ.
    """
    path = f"{directory}/num_pdfs"
    if os.path.isfile(path) and (stated := read_number(path)) != num_pdfs:
        raise UserError(f"{path} says {stated} pdfs, {whose} has {num_pdfs}. {advice}")


def transitions_id(model: TransitionModel) -> str:
    """A digest of a model's states and transitions, but not their probabilities: what its graphs depend on."""
    topology = model.topology
    targets = [[[target for target, _ in state.transitions] for state in entry] for entry in topology.entries]
    digest = hashlib.sha256(repr((topology.phones, topology.entry_of_phone, targets)).encode())
    digest.update(model.tuples.astype("<i4").tobytes())
    return digest.hexdigest()[:32]


def require_graph_of_model(graph_dir: str, model_dir: str, path: str, model: TransitionModel) -> None:
    """Compare a graph with the model, ``path`` in ``model_dir``, that it is to be decoded with.

    Raises:
        UserError: phones, number of pdfs or transitions differ.
    """
    advice = "Make the graph with this model, or decode with the model that it was made with."
    require_same_phones(graph_dir, model_dir, advice)
    require_num_pdfs(graph_dir, model.num_pdfs, path, advice)
    stated = f"{graph_dir}/{TRANSITIONS}"
    if os.path.isfile(stated) and read_text(stated).strip(BLANKS) != transitions_id(model):
        raise UserError(f"The graph in {graph_dir} has the transitions of another model than {path}. {advice}")


def require_order_of_transitions(graph: Transducer, source: str, path: str, model: TransitionModel) -> None:
    """Compare a graph of transition-ids, that of ``source``, with the model in the file ``path``.

    Each arc is looked at together with one that comes before it and one that comes after: where the ids are another
    model's, they mean states here that do not follow each other. Ids that the model lacks are passed over.

    Raises:
        UserError: two transitions follow each other that cannot by the model.
    """
    import numpy as np

    speaking = (graph.ilabels > 0) & (graph.ilabels <= model.num_transition_ids)
    labels = graph.ilabels[speaking].astype(np.int64)
    sources, targets = graph.sources[speaking], graph.targets[speaking]
    into, out_of = np.zeros((2, graph.num_states), np.int64)
    into[targets], out_of[sources] = labels, labels
    before = np.concatenate([into[sources], labels])
    after = np.concatenate([labels, out_of[targets]])
    paired = (before > 0) & (after > 0)
    before, after = before[paired], after[paired]
    bad = np.flatnonzero(~model.may_follow(before, after))
    if len(bad):
        raise UserError(
            f"{source} is of another model than {path}: the transition-id {after[bad[0]]} follows {before[bad[0]]} in "
            "it, as it does nowhere in that model. Make the graph with this model, or take the one it was made with."
        )


def require_same_extractor(first: str, second: str) -> None:
    """Compare the iVector extractors of two directories, where both have ``final.ie.id``.

    Raises:
        UserError: they differ.
    """
    paths = [f"{each}/final.ie.id" for each in (first, second)]
    if all(map(os.path.isfile, paths)) and fields(read_text(paths[0])) != fields(read_text(paths[1])):
        raise UserError(
            f"The iVectors in {first} are not of the extractor that {second} was trained with (final.ie.id differs): "
            "extract iVectors with that one."
        )
