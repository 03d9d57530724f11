#!/usr/bin/env python3
"""Make a decoding graph of a language directory and a model's transitions."""

from nnet3py.program import argument, option, program


@program(
    usage="make_graph.py [options] <lang-dir> <model-dir> <graph-dir>",
    example="steps/make_graph.py data/lang exp/ali_train exp/graph",
)
@option("--grammar", default="loop", metavar="loop|word", help="Without G.fst: any string of words, or one word.")
@option("--transition-scale", type=float, default=1.0, help="Weight of the log-probabilities between states.")
@option("--self-loop-scale", type=float, default=1.0, help="Weight of the log-probabilities of staying and leaving.")
@argument("lang_dir", metavar="<lang-dir>")
@argument("model_dir", metavar="<model-dir>")
@argument("graph_dir", metavar="<graph-dir>")
def main(
    lang_dir: str, model_dir: str, graph_dir: str, grammar: str, transition_scale: float, self_loop_scale: float
) -> None:
    """Make a decoding graph.

    Reads phones.txt, words.txt and L_disambig.fst of the language directory, the grammar G.fst if it has one, and the
    transitions in <model-dir>/final.mdl, whose states must not depend on neighbouring phones. Writes HCLG.fst
    (transition-ids to words, as Kaldi's), words.txt, phones.txt and num_pdfs.

    Kaldi counterpart: utils/mkgraph.sh.
    """
    from nnet3py import log
    from nnet3py.decoding.graph import make_graph_dir

    graph = make_graph_dir(
        lang_dir,
        model_dir,
        graph_dir,
        grammar=grammar,
        transition_scale=transition_scale,
        self_loop_scale=self_loop_scale,
    )
    arcs = sum(graph.num_arcs(state) for state in range(graph.num_states))
    log.log(f"Wrote {graph_dir}/HCLG.fst: {graph.num_states} states, {arcs} arcs.")


if __name__ == "__main__":
    main()
