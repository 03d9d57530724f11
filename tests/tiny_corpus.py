"""A corpus small enough to train on in seconds: random label sequences, each label with features of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter

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

TOPOLOGY = """\
<Topology>
<TopologyEntry>
<ForPhones>
1 2
</ForPhones>
<State> 0 <PdfClass> 0 <Transition> 0 0.75 <Transition> 1 0.25 </State>
<State> 1 <PdfClass> 1 <Transition> 1 0.75 <Transition> 2 0.25 </State>
<State> 2 <PdfClass> 2 <Transition> 2 0.75 <Transition> 3 0.25 </State>
<State> 3 </State>
</TopologyEntry>
</Topology>
"""

TREE = "ContextDependency 1 0 ToPdf TE 0 3 ( NULL TE -1 3 ( CE 0 CE 1 CE 2 ) TE -1 3 ( CE 3 CE 4 CE 5 ) )\n\
EndContextDependency "

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


def scaled_config(scales: str) -> str:
    """The network of :func:`final_config` with a component before the softmax whose scales are in a file."""
    scaled = (
        f"component name=prior_scale type=FixedScaleComponent scales={scales}\n"
        "component-node name=prior_scale component=prior_scale input=final_affine\n"
    )
    lines = final_config().replace(
        "component=log_softmax input=final_affine", "component=log_softmax input=prior_scale"
    )
    return lines + scaled


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


def add_transitions(folder: Path) -> Path:
    """Write ``am_ali/``: a transition model, its tree, and the labels of ``ali/`` as transition ids; as Kaldi's."""
    ali = folder / "am_ali"
    ali.mkdir()
    triples = "\n".join(f"{phone} {state} {3 * (phone - 1) + state}" for phone in (1, 2) for state in range(3))
    log_probs = " ".join(["-0.2876821 -1.386294"] * NUM_PDFS)
    (ali / "final.mdl").write_text(
        f"<TransitionModel>\n{TOPOLOGY}<Triples> {NUM_PDFS}\n{triples}\n</Triples>\n"
        f"<LogProbs>\n [ 0 {log_probs} ]\n</LogProbs>\n</TransitionModel>\n"
    )
    (ali / "tree").write_text(TREE)
    (ali / "num_jobs").write_text("1\n")
    with (
        SequentialReader(f"scp:{folder}/ali/ali.scp", INT_VECTOR) as reader,
        TableWriter(f"ark:| gzip -c > {ali}/ali.1.gz", INT_VECTOR) as writer,
    ):
        for key, pdfs in reader:
            leaves = np.append(pdfs[1:] != pdfs[:-1], True)
            writer.write(key, (2 * pdfs + 1 + leaves).astype(np.int32))
    return ali


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
