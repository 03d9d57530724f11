"""The folder that the example lines of every program's help work in, made by the programs themselves."""

from __future__ import annotations

import gzip
import subprocess
import wave
from pathlib import Path

import numpy as np

from nnet3py.tables.streams import open_output
from nnet3py.tables.transducer import TRANSDUCER, Transducer

_CONFIG = """\
input-node name=input dim=13
component name=affine1 type=NaturalGradientAffineComponent input-dim=65 output-dim=60 max-change=0.75
component-node name=affine1 component=affine1 input=Append(Offset(input, -2), Offset(input, -1), input, \
Offset(input, 1), Offset(input, 2))
component name=pnorm1 type=PnormComponent input-dim=60 output-dim=12
component-node name=pnorm1 component=pnorm1 input=affine1
component name=renorm1 type=NormalizeComponent dim=12
component-node name=renorm1 component=renorm1 input=pnorm1
component name=final_affine type=NaturalGradientAffineComponent input-dim=12 output-dim={num_pdfs} max-change=1.5
component-node name=final_affine component=final_affine input=renorm1
component name=final_log_softmax type=LogSoftmaxComponent dim={num_pdfs}
component-node name=final_log_softmax component=final_log_softmax input=final_affine
output-node name=output input=final_log_softmax objective=linear
"""

_SPLICE = """\
input-node name=input dim=13
output-node name=output input=Append(Offset(input, -2), Offset(input, -1), input, Offset(input, 1), Offset(input, 2))
"""

_TOPOLOGY = """\
<Topology>
<TopologyEntry>
<ForPhones>
1 2 3 4 5 6 7 8 9 10
</ForPhones>
<State> 0 <PdfClass> 0 <Transition> 0 0.75 <Transition> 1 0.25 </State>
<State> 1 <PdfClass> 1 <Transition> 1 0.75 <Transition> 2 0.25 </State>
<State> 2 <PdfClass> 2 <Transition> 2 0.75 <Transition> 3 0.25 </State>
<State> 3 </State>
</TopologyEntry>
</Topology>
"""

# A monophone model with one phone of three states, as Kaldi's gmm-init-mono would leave it: transitions only.
_TRANSITIONS = """\
<TransitionModel>
{topology}<Triples> 30
{triples}
</Triples>
<LogProbs>
 [ 0 {log_probs} ]
</LogProbs>
</TransitionModel>
"""

_TREE = "ContextDependency 1 0 ToPdf TE 0 11 ( NULL {branches} )\nEndContextDependency "


def _shell(folder: Path, command: str) -> None:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def _write_waves(folder: Path, random: np.random.Generator) -> None:
    with open(folder / "wav.scp", "w") as script:
        for number in range(1, 4):
            seconds = 0.8 + 0.3 * number
            times = np.arange(int(8000 * seconds)) / 8000
            samples = 6000 * np.sin(2 * np.pi * (180 + 60 * number) * times) + random.normal(0, 400, times.size)
            with wave.open(str(folder / f"u{number}.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes(samples.astype("<i2").tobytes())
            script.write(f"u{number} u{number}.wav\n")
    (folder / "utt2spk").write_text("u1 s1\nu2 s1\nu3 s2\n")
    (folder / "spk2utt").write_text("s1 u1 u2\ns2 u3\n")
    (folder / "segments").write_text("u1-a u1 0.10 0.60\nu1-b u1 0.50 1.00\nu2-a u2 0.00 1.20\n")


def _write_graph(folder: Path) -> None:
    """A graph in which each of ten one-phone words passes through its three states, any number of words in a row."""
    import kaldifst

    arcs = []
    for phone in range(1, 11):
        first = 3 * phone  # states 3 * phone to 3 * phone + 2
        for state in range(3):
            self_loop, forward = (2 * (3 * (phone - 1) + state) + step for step in (1, 2))
            source = first + state
            target = 0 if state == 2 else source + 1
            word = phone if state == 0 else 0
            arcs.append(f"{0 if state == 0 else source} {target} {forward} {word} 0.3")
            arcs.append(f"{source} {source} {self_loop} 0 0.3")
            if state == 0:
                arcs.append(f"0 {source} {self_loop} {word} 2.3")
                arcs.append(f"{source} {target} {forward} 0 1.4")
    kaldifst.compile("\n".join([*arcs, "0 0"]) + "\n", acceptor=False).write(str(folder / "HCLG.fst"))
    words = ["<eps>", *(f"w{number}" for number in range(1, 11))]
    (folder / "words.txt").write_text("".join(f"{word} {number}\n" for number, word in enumerate(words)))


def _write_lexicon(folder: Path) -> None:
    """A lexicon of the ten words, each one phone, and a transcript of two words for each utterance."""
    arcs = [(0, 0, phone, phone, 2.3) for phone in range(1, 11)]
    with open_output(str(folder / "L.fst")) as sink:
        TRANSDUCER.write(sink, Transducer.of(0, [0.0], arcs), True)
    (folder / "text.int").write_text("u1 1 2\nu2 3 4\nu3 5 6\n")


def make_example_directory(folder: Path) -> Path:
    """Fill ``folder`` with small inputs of every kind; see the names at the end. Needs bin/ on PATH."""
    random = np.random.default_rng(1)
    _write_waves(folder, random)
    (folder / "nnet.config").write_text(_CONFIG.format(num_pdfs=30))
    (folder / "splice.config").write_text(_SPLICE)
    triples = "\n".join(f"{phone} {state} {3 * (phone - 1) + state}" for phone in range(1, 11) for state in range(3))
    log_probs = " ".join(["-0.2876821 -1.386294"] * 30)
    text = _TRANSITIONS.format(topology=_TOPOLOGY, triples=triples, log_probs=log_probs)
    (folder / "transitions.mdl").write_text(text)
    (folder / "topo").write_text(_TOPOLOGY)
    branches = [f"TE -1 3 ( CE {pdf} CE {pdf + 1} CE {pdf + 2} )" for pdf in range(0, 30, 3)]
    (folder / "tree").write_text(_TREE.format(branches=" ".join(branches)))
    _write_graph(folder)
    _write_lexicon(folder)
    (folder / "priors.vec").write_text(" [ " + " ".join("0.0333333" for _ in range(30)) + " ]\n")
    _shell(folder, "compute-mfcc-feats --sample-frequency=8000 scp:wav.scp ark,scp:feats.ark,feats.scp")
    lengths = subprocess.run(["feat-to-len", "scp:feats.scp", "ark,t:-"], cwd=folder, capture_output=True, text=True)
    assert lengths.returncode == 0, lengths.stderr
    with open(folder / "ali.txt", "w") as file:
        for line in lengths.stdout.splitlines():
            key, length = line.split()
            file.write(f"{key} {' '.join(str(c) for c in random.integers(0, 30, int(length)))}\n")
    with open(folder / "ali.txt") as pdfs, gzip.open(folder / "transitions.ali.gz", "wt") as file:
        for line in pdfs:
            key, *words = line.split()
            file.write(f"{key} {' '.join(str(2 * int(pdf) + 1) for pdf in words)}\n")  # the self-loops
    for command in (
        "copy-int-vector ark,t:ali.txt ark:ali.ark",
        "ali-to-post ark:ali.ark ark:post.ark",
        "compute-cmvn-stats --spk2utt=ark:spk2utt scp:feats.scp ark,scp:cmvn.ark,cmvn.scp",
        "for n in 0 1 2 3; do nnet-init --srand=$n nnet.config $n.raw || exit 1; done",
        "nnet-init splice.config splice.raw",
        "nnet-am-init transitions.mdl 1.raw am.mdl",
        "nnet-get-egs --num-pdfs=30 --left-context=2 --right-context=2 --num-frames=8 "
        "ark:feats.ark ark:post.ark ark:egs.ark",
        "nnet-merge-egs --minibatch-size=16 ark:egs.ark ark:minibatches.ark",
        "compile-train-graphs tree transitions.mdl L.fst ark,t:text.int ark:graphs.fsts",
        "nnet-acc-lda-stats splice.raw ark:egs.ark lda_stats",
    ):
        _shell(folder, command)
    return folder
