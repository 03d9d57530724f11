"""What must belong together, compared where it meets: phones, trees, transition models, numbers of pdfs, extractors.

Numbers stand for phones, pdfs and transitions in every file, and any file can be read beside any other: what was made
of other phones, or of another tree, is decoded and trained with all the same, to no purpose. So two directories that
meet are compared in all that both of them say. An error names both.

Source: Kaldi egs/wsj/s5/utils/lang/check_phones_compatible.sh, steps/nnet2/check_ivectors_compatible.sh.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, fields, read_number, read_text
from nnet3py.text.symbols import read_symbols

if TYPE_CHECKING:
    from nnet3py.nnet.transition_model import TransitionModel

TRANSITIONS = "transitions.id"
"""The file of a graph's directory that says which transition model the graph is of."""


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
