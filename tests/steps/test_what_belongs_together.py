"""Drivers refuse what does not belong together before anything is made or removed, and name both sides."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import FEAT_DIM, INIT_CONFIG

from nnet3py.tables.holders import MATRIX
from nnet3py.tables.streams import open_output
from nnet3py.tables.table import TableWriter
from nnet3py.tables.transducer import TRANSDUCER, Transducer, read_transducer_file

pytestmark = pytest.mark.slow  # each starts drivers, which start jobs

pytest.importorskip("kaldifst")
pytest.importorskip("kaldi_decoder")
ROOT = Path(__file__).resolve().parents[2]
STEPS = ROOT / "steps"
KEYS = [f"s{speaker}-u{number}" for speaker in (1, 2) for number in range(4)]
PDFS, FEW_PDFS = 8, 6  # SIL of two states and three phones of two each; two phones
CONFIG = """\
{inputs}component name=affine type=NaturalGradientAffineComponent input-dim={spliced} output-dim={pdfs}
component-node name=affine component=affine input=Append({spliced_inputs})
component name=log_softmax type=LogSoftmaxComponent dim={pdfs}
component-node name=log_softmax component=log_softmax input=affine
output-node name=output input=log_softmax objective=linear
"""


def network(*, pdfs: int = PDFS, dim: int = FEAT_DIM, ivector_dim: int = 0, context: int = 0) -> str:
    frames = [f"Offset(input, {offset})" if offset else "input" for offset in range(-context, context + 1)]
    ivector = ["ReplaceIndex(ivector, t, 0)"] if ivector_dim else []
    inputs = f"input-node name=input dim={dim}\n"
    inputs += f"input-node name=ivector dim={ivector_dim}\n" if ivector_dim else ""
    spliced = len(frames) * dim + ivector_dim
    return CONFIG.format(inputs=inputs, spliced=spliced, pdfs=pdfs, spliced_inputs=", ".join([*frames, *ivector]))


def shell(folder: Path, command: str) -> str:
    path = os.pathsep.join([str(STEPS), os.environ["PATH"]])
    words = ["bash", "-e", "-o", "pipefail", "-c", command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return done.stderr


def write_features(folder: Path, name: str, dim: int) -> None:
    random = np.random.default_rng(1)
    (folder / name).mkdir()
    with TableWriter(f"ark,scp:{folder}/{name}/feats.ark,{folder}/{name}/feats.scp", MATRIX) as writer:
        for key in KEYS:
            writer.write(key, random.normal(size=(30, dim)).astype(np.float32))
    script = folder / name / "feats.scp"
    script.write_text(script.read_text().replace(f"{folder}/", ""))  # so that copies of the folder have their own
    (folder / name / "utt2spk").write_text("".join(f"{key} {key[:2]}\n" for key in KEYS))
    speakers = {s: [key for key in KEYS if key[:2] == s] for s in ("s1", "s2")}
    (folder / name / "spk2utt").write_text("".join(f"{s} {' '.join(keys)}\n" for s, keys in speakers.items()))
    (folder / name / "text").write_text("".join(f"{key} a b\n" for key in KEYS))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two languages (``lang``; ``few`` with a phone less), alignments, models, graphs, features, statistics, examples.

    ``exp`` is a model of ``mono``; everything that belongs together is used together here once.
    """
    folder = tmp_path_factory.mktemp("world")
    write_features(folder, "data", FEAT_DIM)
    write_features(folder, "wide", FEAT_DIM + 1)
    (folder / "lexicon").write_text("a A\nb B\nc C\n")
    (folder / "few_lexicon").write_text("a A\nb B\n")
    (folder / "renamed_lexicon").write_text("a X\nb Y\nc Z\n")
    (folder / "net.config").write_text(network())
    (folder / "few.config").write_text(network(pdfs=FEW_PDFS))
    (folder / "iv.config").write_text(network(ivector_dim=2 * FEAT_DIM))
    states = "--num-nonsil-states=2 --num-sil-states=2"
    shell(
        folder,
        f"for d in data wide; do compute-cmvn-stats --spk2utt=ark:$d/spk2utt scp:$d/feats.scp "
        "ark,scp:$d/cmvn.ark,$d/cmvn.scp; done\n"
        f"prepare_lang.py {states} lexicon lang; prepare_lang.py {states} few_lexicon few\n"
        f"prepare_lang.py {states} renamed_lexicon renamed\n"
        "align_equal.py --nj=1 data lang mono; align_equal.py --nj=1 data few mono_few\n"
        "mkdir exp exp_few exp_iv\n"
        "for n in net:exp:mono few:exp_few:mono_few iv:exp_iv:mono; do IFS=: read c e m <<< $n\n"
        "nnet-init $c.config $e/final.raw; nnet-am-init $m/final.mdl $e/final.raw $e/final.mdl\n"
        "cp $m/tree $m/phones.txt $m/num_pdfs $e; done\n"
        "make_graph.py lang mono graph; make_graph.py few mono_few graph_few\n"
        "compute_utterance_vectors.py --nj=1 data vectors; compute_utterance_vectors.py --nj=1 wide wide_vectors\n"
        "get_egs.py --nj=1 --left-context=0 --right-context=0 --frames-per-eg=4 data mono egs\n"
        "get_egs.py --nj=1 --left-context=0 --right-context=0 --frames-per-eg=4 data mono_few egs_few\n"
        "decode.py --nj=1 graph data exp/decode; align.py --nj=1 data lang exp ali\n"
        "decode.py --nj=1 --online-ivector-dir=vectors graph data exp_iv/decode\n"
        "adjust_priors.py exp egs; rm exp/final_adj.mdl",
    )
    return folder


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world, tmp_path, dirs_exist_ok=True, symlinks=True)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, driver: str, *words: str) -> str:
    """The one error of a driver, which leaves everything as it was."""
    before = contents(folder)
    command = [str(STEPS / driver), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1, done.stderr
    assert contents(folder) == before
    return errors[0]


def labelled(path: Path, side: str) -> None:
    """Give a transducer a label that no symbol table has."""
    fst = read_transducer_file(str(path))
    labels = {"ilabel": fst.ilabels.copy(), "olabel": fst.olabels.copy()}
    labels[side][np.flatnonzero(labels[side])[0]] = 99
    columns = (fst.sources, fst.targets, labels["ilabel"], labels["olabel"], fst.weights)
    arcs = list(zip(*(column.tolist() for column in columns), strict=True))
    with open_output(str(path)) as sink:
        TRANSDUCER.write(sink, Transducer.of(fst.start, fst.finals, arcs), True)


# Decoding.


def test_decoding_refuses_a_graph_of_other_phones_of_other_pdfs_and_of_other_transitions(copy: Path) -> None:
    says = refused(copy, "decode.py", "graph_few", "data", "exp/decode")
    assert "The phones of graph_few/phones.txt and exp/phones.txt differ: 'C' is not in graph_few/phones.txt" in says
    shutil.copy(copy / "exp/phones.txt", copy / "graph_few")
    says = refused(copy, "decode.py", "graph_few", "data", "exp/decode")
    assert f"graph_few/num_pdfs says {FEW_PDFS} pdfs, exp/final.mdl has {PDFS}" in says
    shutil.copy(copy / "exp/num_pdfs", copy / "graph_few")
    says = refused(copy, "decode.py", "graph_few", "data", "exp/decode")
    assert "The graph in graph_few has the transitions of another model than exp/final.mdl" in says


def test_decoding_refuses_features_statistics_and_vectors_of_other_dimensions(copy: Path) -> None:
    says = refused(copy, "decode.py", "graph", "wide", "exp/decode")
    assert "wide/feats.scp has dimension 6, the network of exp/final.mdl takes features of dimension 5" in says
    (copy / "exp/cmvn_opts").write_text("--norm-vars=false\n")
    shutil.copy(copy / "wide/cmvn.scp", copy / "data/cmvn.scp")
    says = refused(copy, "decode.py", "graph", "data", "exp/decode")
    assert "data/cmvn.scp are of features of dimension 6, the input of exp/final.mdl has dimension 5" in says
    (copy / "exp/online_cmvn").write_text("")
    assert "There is no exp/global_cmvn.stats" in refused(copy, "decode.py", "graph", "data", "exp/decode")
    shell(copy, "matrix-sum scp:wide/cmvn.scp exp/global_cmvn.stats")
    says = refused(copy, "decode.py", "graph", "data", "exp/decode")
    assert "exp/global_cmvn.stats are of features of dimension 6, the input of exp/final.mdl has dimension 5" in says
    vectors = "--online-ivector-dir=wide_vectors"
    says = refused(copy, "decode.py", vectors, "graph", "data", "exp_iv/decode")
    assert "wide_vectors/ivector_online.scp has dimension 12, the network of exp_iv/final.mdl takes iVectors of" in says
    says = refused(copy, "decode.py", "graph", "data", "exp_iv/decode")
    assert "exp_iv/final.mdl has an input 'ivector' of dimension 10: give --online-ivector-dir" in says
    (copy / "exp/cmvn_opts").unlink()
    says = refused(copy, "decode.py", vectors, "graph", "data", "exp/decode")
    assert "exp/final.mdl has no input 'ivector': leave out --online-ivector-dir=wide_vectors" in says
    (copy / "exp_iv/final.ie.id").write_text("another\n")
    says = refused(copy, "decode.py", "--online-ivector-dir=vectors", "graph", "data", "exp_iv/decode")
    assert "vectors are not of the extractor that exp_iv was trained with" in says


def test_a_model_whose_network_has_more_outputs_than_its_transitions_pdfs_is_refused(copy: Path) -> None:
    assert "only 6 pdfs" in shell(
        copy, "nnet-am-init mono_few/final.mdl exp/final.raw exp/final.mdl"
    )  # as Kaldi, warned
    for words in (["decode.py", "graph", "data", "exp/decode"], ["align.py", "data", "lang", "exp", "ali"]):
        says = refused(copy, *words)
        assert "exp/final.mdl has the output dimension 8, its transition model has 6 pdfs" in says


def test_a_graph_or_word_list_that_says_nothing_of_its_origin_is_found_out_when_it_is_used(copy: Path) -> None:
    log_likelihoods = "ark:nnet-compute exp/final.raw scp:data/feats.scp ark:- |"
    words = ["decode-faster-mapped", "--word-symbol-table=graph/words.txt", "exp/final.mdl", "graph/HCLG.fst"]

    def decode(*command: str) -> str:
        line = [*command, log_likelihoods, "ark:decoded"]
        done = subprocess.run(line, cwd=copy, capture_output=True, text=True)
        return "" if done.returncode == 0 else done.stderr

    assert decode(*words) == ""
    (copy / "decoded").unlink()
    (copy / "words.txt").write_text("<eps> 0\na 1\n")
    says = decode(words[0], "--word-symbol-table=words.txt", *words[2:])
    assert "graph/HCLG.fst has the label 3, which words.txt has no symbol for" in says
    # A model of as many pdfs and transitions whose phones have other states: two phones of three, not three of two.
    shell(
        copy,
        "prepare_lang.py --num-nonsil-states=3 --num-sil-states=2 few_lexicon other; "
        "align_equal.py --nj=1 data other mono_other",
    )
    assert (copy / "mono_other/num_pdfs").read_text() == f"{PDFS}\n"
    says = decode(*words[:2], "mono_other/final.mdl", "graph/HCLG.fst")
    assert "graph/HCLG.fst is of another model than mono_other/final.mdl: the transition-id" in says
    assert not (copy / "decoded").exists()
    few = "ark:nnet-compute exp_few/final.raw scp:data/feats.scp ark:- |"
    done = subprocess.run([*words, few, "ark:decoded"], cwd=copy, capture_output=True, text=True)
    assert "expected 8 log-likelihoods a frame, one for each pdf of the model, found 6" in done.stderr


# Alignment and graphs.


def test_alignment_refuses_another_language_another_tree_and_other_features(copy: Path) -> None:
    says = refused(copy, "align.py", "data", "renamed", "exp", "ali")
    assert "The phones of renamed/phones.txt and exp/phones.txt differ: 'A' is not in renamed/phones.txt" in says
    says = refused(copy, "align.py", "wide", "lang", "exp", "ali")
    assert "wide/feats.scp has dimension 6, the network of exp/final.mdl takes features of dimension 5" in says
    shutil.copy(copy / "mono_few/tree", copy / "exp/tree")
    says = refused(copy, "align.py", "data", "lang", "exp", "ali")
    assert "exp/tree has 6 pdfs, exp/final.mdl has 8" in says


@pytest.mark.parametrize(("side", "table"), [("ilabel", "phones.txt"), ("olabel", "words.txt")])
def test_lexicon_and_grammar_have_labels_of_their_language(copy: Path, side: str, table: str) -> None:
    shutil.copytree(copy / "lang", copy / "torn")
    labelled(copy / "torn/L.fst", side)
    says = f"torn/L.fst has the label 99, which torn/{table} has no symbol for"
    assert says in refused(copy, "align.py", "data", "torn", "exp", "ali")
    assert says in refused(copy, "align_equal.py", "data", "torn", "mono")
    labelled(copy / "torn/L_disambig.fst", side)
    assert says.replace("L.fst", "L_disambig.fst") in refused(copy, "make_graph.py", "torn", "mono", "graph")
    shutil.copy(copy / "lang/L_disambig.fst", copy / "torn")
    with open_output(str(copy / "torn/G.fst")) as sink:
        TRANSDUCER.write(sink, Transducer.of(0, [0.0], [(0, 0, 1, 1, 0.5)]), True)
    labelled(copy / "torn/G.fst", side)
    says = "torn/G.fst has the label 99, which torn/words.txt has no symbol for"
    assert says in refused(copy, "make_graph.py", "torn", "mono", "graph")


def test_a_graph_is_made_with_the_language_and_the_tree_of_the_model(copy: Path) -> None:
    says = refused(copy, "make_graph.py", "renamed", "mono", "graph")
    assert "The phones of renamed/phones.txt and mono/phones.txt differ" in says
    (copy / "mono_few/phones.txt").unlink()
    says = refused(copy, "make_graph.py", "lang", "mono_few", "graph")
    assert "The phone 4 of lang/phones.txt is not in mono_few/final.mdl" in says
    shutil.copy(copy / "mono_few/tree", copy / "mono/tree")
    says = refused(copy, "make_graph.py", "lang", "mono", "graph")
    assert "mono/tree has 6 pdfs, mono/final.mdl has 8" in says


def test_graphs_that_were_compiled_with_another_model_are_found_out(copy: Path) -> None:
    lines = "".join(f"{key} 1 2\n" for key in KEYS)
    (copy / "text.int").write_text(lines)
    compiling = "compile-train-graphs --read-disambig-syms=lang/phones/disambig.int"
    shell(copy, f"{compiling} mono/tree mono/final.mdl lang/L.fst ark,t:text.int ark:graphs")
    shell(copy, "align.py --nj=1 --graphs=ark:graphs data lang exp ali")
    shell(
        copy,
        "prepare_lang.py --num-nonsil-states=3 --num-sil-states=2 few_lexicon other; "
        "align_equal.py --nj=1 data other mono_other; "
        "nnet-am-init mono_other/final.mdl exp/final.raw other.mdl",
    )
    aligning = ["align-compiled-mapped", "other.mdl", "ark:graphs"]
    done = subprocess.run(
        [*aligning, "ark:nnet-compute exp/final.raw scp:data/feats.scp ark:- |", "ark:aligned"],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert (
        "The graph of utterance s1-u0 in ark:graphs is of another model than other.mdl: the transition-id"
        in done.stderr
    )
    done = subprocess.run(
        [
            aligning[0],
            "exp/final.mdl",
            "ark:graphs",
            "ark:nnet-compute exp_few/final.raw scp:data/feats.scp ark:- |",
            "ark:aligned",
        ],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert "expected 8 log-likelihoods a frame, one for each pdf of the model, found 6" in done.stderr
    assert not (copy / "aligned").exists()


def test_compiling_graphs_compares_tree_model_lexicon_and_disambiguation_symbols(copy: Path) -> None:
    (copy / "text.int").write_text("u1 1 2\n")
    (copy / "beyond.int").write_text("u1 1 2\nu2 1 77\n")

    def compile_graphs(tree: str, model: str, lexicon: str, *, disambiguation: str, text: str = "text.int") -> str:
        options = [f"--read-disambig-syms={disambiguation}/phones/disambig.int"]
        words = ["compile-train-graphs", *options, tree, model, lexicon, f"ark,t:{text}", "ark:compiled"]
        done = subprocess.run(words, cwd=copy, capture_output=True, text=True)
        assert (done.returncode == 0) == (copy / "compiled").exists()
        (copy / "compiled").unlink(missing_ok=True)
        return done.stderr

    own = ("mono/tree", "mono/final.mdl", "lang/L.fst")
    assert "succeeded for 1 graphs" in compile_graphs(*own, disambiguation="lang")
    says = compile_graphs("mono_few/tree", *own[1:], disambiguation="lang")
    assert "mono_few/tree has 6 pdfs, mono/final.mdl has 8: they are of two systems" in says
    says = compile_graphs(*own, disambiguation="few")
    assert "few/phones/disambig.int lists 4, which is a phone of mono/final.mdl: they are of two languages" in says
    says = compile_graphs("mono_few/tree", "mono_few/final.mdl", "lang/L.fst", disambiguation="lang")
    assert "Cannot compile graphs with lang/L.fst and mono_few/final.mdl: The lexicon has phone 4" in says
    says = compile_graphs(*own, disambiguation="lang", text="beyond.int")
    assert "Empty graph for utterance u2: the lexicon cannot say its word 77" in says
    assert "succeeded for 1 graphs, failed for 1" in says


# Examples and training.


def test_examples_are_made_of_a_whole_alignment_and_of_statistics_of_the_features(copy: Path) -> None:
    options = ["--nj=1", "--frames-per-eg=4"]
    shutil.copy(copy / "wide/cmvn.scp", copy / "data/cmvn.scp")
    says = refused(copy, "get_egs.py", *options, "--cmvn-opts=--norm-means=true", "data", "mono", "egs")
    assert "data/cmvn.scp are of features of dimension 6, data/feats.scp has dimension 5" in says
    (copy / "mono/frame_subsampling_factor").write_text("3\n")
    says = refused(copy, "get_egs.py", *options, "data", "mono", "egs")
    assert "mono/frame_subsampling_factor says that the alignment has a label every 3 frames" in says
    (copy / "mono/frame_subsampling_factor").unlink()
    shutil.copy(copy / "mono_few/tree", copy / "mono/tree")
    says = refused(copy, "get_egs.py", *options, "data", "mono", "egs")
    assert "mono/tree has 6 pdfs, mono/final.mdl has 8" in says


def train(folder: Path, *words: str, config: str = "", ali: str = "mono") -> str:
    """The one error of a training, which has made no examples and no model."""
    configs = folder / "new/configs"
    configs.mkdir(parents=True, exist_ok=True)
    (configs / "final.config").write_text(config or network())
    (configs / "vars").write_text("model_left_context=0\nmodel_right_context=0\n")
    options = ["--egs.frames-per-eg=4", "--trainer.optimization.minibatch-size=1:8"]
    options += ["--trainer.optimization.num-jobs-final=1", *words]
    command = [str(STEPS / "train_dnn.py"), f"--ali-dir={ali}", "--feat-dir=data", "--dir=new", *options]
    before = contents(folder)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1, done.stderr
    after = contents(folder)
    made = {name for name in after if before.get(name) != after[name]}
    assert not [name for name in before.keys() - after.keys() if not name.startswith("new/")]
    assert not [name for name in made if not name.startswith("new/") or name.endswith(".raw") or "egs" in name]
    return errors[0]


def test_training_compares_its_network_with_alignments_features_and_vectors_before_examples_are_made(
    copy: Path,
) -> None:
    says = train(copy, config=network(pdfs=14))
    assert "The network in new/configs has the output dimension 14, mono/final.mdl has 8 pdfs" in says
    says = train(copy, config=network(dim=6))
    assert "input 'input' has dimension 6, what comes in has 5 (data/feats.scp)" in says
    says = train(copy, config=network(ivector_dim=4))
    assert "input 'ivector' of dimension 4, and there is nothing to come in: give --feat.online-ivector-dir" in says
    says = train(copy, "--feat.online-ivector-dir=vectors")
    assert "no input 'ivector', for which there is vectors" in says
    says = train(copy, "--feat.online-ivector-dir=vectors", config=network(ivector_dim=4))
    assert "input 'ivector' has dimension 4, what comes in has 10 (vectors)" in says
    says = train(copy, "--trainer.input-model=exp_few/final.raw")
    assert "exp_few/final.raw has the output dimension 6, mono/final.mdl has 8 pdfs" in says
    says = train(copy, "--trainer.input-model=exp_iv/final.raw")
    assert "input 'ivector' of dimension 10" in says
    shutil.copy(copy / "mono_few/tree", copy / "mono/tree")
    assert "mono/tree has 6 pdfs, mono/final.mdl has 8" in train(copy)


def test_training_compares_given_examples_with_alignments_network_and_options(copy: Path) -> None:
    given = "--egs.dir=egs"
    says = train(copy, given, ali="mono_few", config=network(pdfs=FEW_PDFS))
    assert "The phones of egs/phones.txt and mono_few/phones.txt differ" in says
    (copy / "mono_few/phones.txt").unlink()
    says = train(copy, given, ali="mono_few", config=network(pdfs=FEW_PDFS))
    assert "egs/tree and mono_few/tree are different trees, of 8 and 6 pdfs" in says
    (copy / "egs/tree").unlink()
    says = train(copy, given, ali="mono_few", config=network(pdfs=FEW_PDFS))
    assert "mono_few/num_pdfs says 6 pdfs, egs/info/num_pdfs has 8" in says
    (copy / "mono_few/num_pdfs").unlink()
    says = train(copy, given, ali="mono_few", config=network(pdfs=FEW_PDFS))
    assert "new/configs has the output dimension 6, egs/info/num_pdfs has 8 pdfs" in says
    says = train(copy, given, "--feat.cmvn-opts=--norm-vars=true")
    assert "The examples in egs were normalised with" in says
    assert "(egs/cmvn_opts)" in says
    assert "training is told '--norm-vars=true' (--feat.cmvn-opts)" in says
    says = train(copy, given, config=network(dim=6))
    assert "input 'input' has dimension 6, what comes in has 5 (egs)" in says
    says = train(copy, given, config=network(ivector_dim=10))
    assert "input 'ivector' of dimension 10, and there is nothing to come in" in says
    (copy / "mono/frame_subsampling_factor").write_text("3\n")
    (copy / "egs/info/frame_subsampling_factor").write_text("2\n")
    says = train(copy, given)
    assert "mono/frame_subsampling_factor says 3, egs/info/frame_subsampling_factor says 2" in says


def test_realignment_compares_its_language_with_the_alignments_before_training(copy: Path) -> None:
    says = train(copy, "--trainer.realign-times=0.5", "--lang=renamed")
    assert "The phones of renamed/phones.txt and mono/phones.txt differ" in says


# Priors and vectors.


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("egs/cmvn_opts", "--norm-means=true", "features of exp and egs are not normalised alike"),
        ("egs/phones.txt", "<eps> 0\nQ 1\n", "The phones of exp/phones.txt and egs/phones.txt differ"),
        ("egs/tree", None, "exp/tree and egs/tree are different trees, of 8 and 6 pdfs"),
        ("egs/info/feat_dim", "6", "in exp/final.mdl has the input dimension 5, egs/info/feat_dim says 6"),
        ("egs/info/ivector_dim", "3", "in exp/final.mdl has the iVector dimension 0, egs/info/ivector_dim says 3"),
        ("egs/info/num_pdfs", "9", "in exp/final.mdl has the output dimension 8, egs/info/num_pdfs says 9"),
        ("egs/info/frame_subsampling_factor", "3", "exp/frame_subsampling_factor says 2"),
        ("egs/info/final.ie.id", "xyz", "egs/info are not of the extractor that exp was trained with"),
    ],
)
def test_priors_are_of_examples_like_those_of_the_model(copy: Path, name: str, text: str | None, says: str) -> None:
    (copy / "exp/cmvn_opts").write_text("--norm-means=false --norm-vars=false\n")
    (copy / "exp/frame_subsampling_factor").write_text("2\n")
    (copy / "exp/final.ie.id").write_text("abc\n")
    (copy / name).write_text((copy / "mono_few/tree").read_text() if text is None else f"{text}\n")
    assert says in refused(copy, "adjust_priors.py", "exp", "egs")


def test_priors_need_the_context_of_the_network(copy: Path) -> None:
    (copy / "net.config").write_text(network(context=2))
    shell(copy, "nnet-init net.config exp/final.raw && nnet-am-init mono/final.mdl exp/final.raw exp/final.mdl")
    says = refused(copy, "adjust_priors.py", "exp", "egs")
    assert "in exp/final.mdl has the left context 2, egs/info/left_context says 0" in says


def test_vectors_like_others_are_of_features_of_their_dimension(copy: Path) -> None:
    says = refused(copy, "compute_utterance_vectors.py", "--like=vectors", "wide", "new_vectors")
    assert "wide/feats.scp has dimension 6, vectors/global.stats is of features of dimension 5" in says


# Single programs.


def stderr_of(folder: Path, *words: str, status: int = 1) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            network(ivector_dim=7),
            "the network needs the input 'ivector', of dimension 7, and what is given has only input",
        ),
        (network(dim=6), "6"),
        (network(context=1), "input input is given at times 0 to 3, and -1, 4 are missing"),
    ],
)
def test_programs_name_what_a_network_needs_and_examples_lack(copy: Path, config: str, says: str) -> None:
    (copy / "other.config").write_text(config)
    shell(copy, "nnet-init other.config other.raw; cp other.raw again.raw")
    merged = "ark:nnet-merge-egs --minibatch-size=1:8 ark:egs/egs.1.ark ark:- |"
    for words in (
        ["nnet-train-shard", "other.raw", merged, "made"],
        ["nnet-compute-prob", "other.raw", merged],
        ["nnet-compute-from-egs", "other.raw", merged, "ark:made"],
        ["nnet-combine", "other.raw", "again.raw", merged, "made"],
        ["nnet-combine-fast", "other.raw", "again.raw", merged, "made"],
        ["nnet-show-progress", "other.raw", "again.raw", merged],
        ["nnet-acc-lda-stats", "other.raw", "ark:egs/egs.1.ark", "made"],
    ):
        assert says in stderr_of(copy, *words), words
        assert not (copy / "made").exists()


def test_programs_refuse_examples_of_other_classes_and_inputs_that_the_network_has_not(copy: Path) -> None:
    few = "ark:nnet-merge-egs --minibatch-size=1:8 ark:egs_few/egs.1.ark ark:- |"
    for words in (
        ["nnet-train-shard", "exp/final.raw", few, "made"],
        ["nnet-compute-prob", "exp/final.raw", few],
        ["nnet-combine", "exp/final.raw", "exp/final.raw", few, "made"],
    ):
        assert "8 (nnet) vs. 6 (egs)" in stderr_of(copy, *words), words
    shell(
        copy,
        "get_egs.py --nj=1 --left-context=0 --right-context=0 --frames-per-eg=4 --online-ivector-dir=vectors "
        "data mono egs_iv",
    )
    merged = "ark:nnet-merge-egs --minibatch-size=1:8 ark:egs_iv/egs.1.ark ark:- |"
    assert "named 'ivector'" in stderr_of(copy, "nnet-train-shard", "exp/final.raw", merged, "made")
    shell(copy, f"nnet-compute-prob exp_iv/final.raw '{merged}'")


def test_an_acoustic_model_is_of_a_network_and_transitions_that_fit(copy: Path) -> None:
    says = stderr_of(copy, "nnet-am-init", "mono/final.mdl", "exp_few/final.raw", "made")
    assert "Cannot join mono/final.mdl with exp_few/final.raw: The transition model has 8 pdfs" in says


def test_models_and_statistics_of_different_structure_are_named(copy: Path) -> None:
    says = stderr_of(copy, "nnet-average", "exp/final.raw", "exp_few/final.raw", "made")
    assert "exp/final.raw and exp_few/final.raw differ in structure" in says
    (copy / "init.config").write_text(INIT_CONFIG.replace("Offset(input, -1), input, Offset(input, 1)", "input, input"))
    shell(copy, "nnet-init init.config init.raw; nnet-init net.config net.raw")
    shell(
        copy, "nnet-acc-lda-stats init.raw ark:egs/egs.1.ark 1.lda; nnet-acc-lda-stats net.raw ark:egs/egs.1.ark 2.lda"
    )
    for words in (
        ["nnet-sum-lda-stats", "made", "1.lda", "2.lda"],
        ["nnet-get-feature-transform", "made", "1.lda", "2.lda"],
    ):
        assert "2.lda after 1.lda: Cannot add LDA statistics of 8 classes and dimension 8" in stderr_of(copy, *words)


def test_alignments_of_another_model_are_warned_of(copy: Path) -> None:
    alignments = "ark:gunzip -c mono/ali.1.gz |"
    assert "WARNING" not in stderr_of(copy, "ali-to-pdf", "mono/final.mdl", alignments, "ark:pdfs", status=0)
    shell(
        copy,
        "prepare_lang.py --num-nonsil-states=3 --num-sil-states=2 few_lexicon other; "
        "align_equal.py --nj=1 data other mono_other; nnet-am-init mono_other/final.mdl exp/final.raw other.mdl",
    )
    for words in (
        ["ali-to-pdf", "mono_other/final.mdl", alignments, "ark:pdfs"],
        ["nnet-am-train-transitions", "other.mdl", alignments, "made"],
    ):
        says = stderr_of(copy, *words, status=0)
        assert " of 8 alignments in ark:gunzip -c mono/ali.1.gz | are no path through the HMMs of" in says
    few = stderr_of(copy, "ali-to-pdf", "mono_few/final.mdl", "ark,t:echo u1 16 |", "ark:pdfs")
    assert "transition id 16 is not in the transition model, which has 1 to 12" in few


def test_scoring_says_how_many_hypotheses_are_of_other_data(copy: Path) -> None:
    pytest.importorskip("kaldialign")
    assert "WARNING" not in stderr_of(copy, str(STEPS / "score.py"), "data", "exp/decode", status=0)
    (copy / "data/text").write_text("".join(f"{key} a b\n" for key in KEYS[:3]))
    says = stderr_of(copy, str(STEPS / "score.py"), "data", "exp/decode", status=0)
    assert "5 of the 8 utterances in exp/decode/hyp_0.1.txt are not in data/text (s1-u3, say) and do not count" in says
    (copy / "data/text").write_text("elsewhere a b\n")
    says = stderr_of(copy, str(STEPS / "score.py"), "data", "exp/decode")
    assert "exp/decode/hyp_0.1.txt against data/text: No utterance of the references has a hypothesis" in says
