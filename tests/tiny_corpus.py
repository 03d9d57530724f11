"""A corpus small enough to train on in seconds: random label sequences, each label with features of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.table import TableWriter

NUM_PDFS = 6
FEAT_DIM = 5

INIT_CONFIG = f"""\
input-node name=input dim={FEAT_DIM}
output-node name=output input=Append(Offset(input, -1), input, Offset(input, 1))
"""

_LAYERS = f"""\
component name=affine1 type=NaturalGradientAffineComponent input-dim={3 * FEAT_DIM} output-dim=24 max-change=0.75
component-node name=affine1 component=affine1 input={{spliced}}
component name=pnorm1 type=PnormComponent input-dim=24 output-dim=8
component-node name=pnorm1 component=pnorm1 input=affine1
component name=renorm1 type=NormalizeComponent dim=8
component-node name=renorm1 component=renorm1 input=pnorm1
component name=final_affine type=NaturalGradientAffineComponent input-dim=8 output-dim={NUM_PDFS} max-change=1.5
component-node name=final_affine component=final_affine input={{before_final}}
component name=log_softmax type=LogSoftmaxComponent dim={NUM_PDFS}
component-node name=log_softmax component=log_softmax input=final_affine
output-node name=output input=log_softmax objective=linear
"""

SPLICED = "Append(Offset(input, -1), input, Offset(input, 1))"


def final_config(lda: Path | None = None) -> str:
    """A p-norm network over three frames, decorrelated by a matrix or as they are."""
    if lda is None:
        return f"input-node name=input dim={FEAT_DIM}\n" + _LAYERS.format(spliced=SPLICED, before_final="renorm1")
    fixed = (
        f"component name=lda type=FixedAffineComponent matrix={lda}\n"
        f"component-node name=lda component=lda input={SPLICED}\n"
    )
    return f"input-node name=input dim={FEAT_DIM}\n" + fixed + _LAYERS.format(spliced="lda", before_final="renorm1")


LAYER2_CONFIG = f"""\
component name=affine2 type=NaturalGradientAffineComponent input-dim=8 output-dim=24 max-change=0.75
component-node name=affine2 component=affine2 input=renorm1
component name=pnorm2 type=PnormComponent input-dim=24 output-dim=8
component-node name=pnorm2 component=pnorm2 input=affine2
component name=renorm2 type=NormalizeComponent dim=8
component-node name=renorm2 component=renorm2 input=pnorm2
component name=final_affine type=NaturalGradientAffineComponent input-dim=8 output-dim={NUM_PDFS} max-change=1.5
component-node name=final_affine component=final_affine input=renorm2
"""


def make_corpus(folder: Path, *, utterances: int = 40, frames: int = 60, seed: int = 3) -> None:
    """Write ``data/`` (features, speakers) and ``ali/`` (pdf-ids and their number) into ``folder``."""
    random = np.random.default_rng(seed)
    means = random.normal(0, 1.0, (NUM_PDFS, FEAT_DIM))
    data, ali = folder / "data", folder / "ali"
    data.mkdir()
    ali.mkdir()
    keys = [f"s{number % 4}-u{number:03d}" for number in range(utterances)]
    features = TableWriter(f"ark,scp:{data}/feats.ark,{data}/feats.scp", MATRIX)
    labels = TableWriter(f"ark,scp:{ali}/ali.1.ark,{ali}/ali.scp", INT_VECTOR)
    with features, labels:
        for key in sorted(keys):
            length = frames + int(random.integers(0, 20))
            classes = np.repeat(random.integers(0, NUM_PDFS, length // 4 + 1), 4)[:length].astype(np.int32)
            noisy = means[classes] + random.normal(0, 1.0, (length, FEAT_DIM))
            features.write(key, noisy.astype(np.float32))
            labels.write(key, classes)
    (data / "utt2spk").write_text("".join(f"{key} {key.split('-')[0]}\n" for key in sorted(keys)))
    (ali / "num_pdfs").write_text(f"{NUM_PDFS}\n")
