#!/usr/bin/env python3
"""Alignments from the synthesiser's own phone times; see --help."""

from nnet3py.program import argument, option, program


@program(
    usage="align_phones.py [options] <data-dir> <lang-dir> <ali-dir>",
    example="local/align_phones.py data/train data/lang exp/ali_train",
)
@option("--nj", type=int, default=1, help="Number of archives.")
@argument("data_dir", metavar="<data-dir>")
@argument("lang_dir", metavar="<lang-dir>")
@argument("ali_dir", metavar="<ali-dir>")
def main(data_dir: str, lang_dir: str, ali_dir: str, nj: int) -> None:
    """Write <ali-dir>/ali.N.gz: a transition-id for each frame, from the phone times in <data-dir>/phones.ctm.

    Reads utt2num_frames of the data and topo and phones.txt of the language. Also writes final.mdl (the transition
    model of a monophone system, nothing after it), tree, phones.txt, num_jobs and num_pdfs, as Kaldi's training leaves
    them.

    Kaldi counterpart: steps/align_si.sh, without a model that aligns.
    """
    from pathlib import Path

    from nnet3py import log
    from nnet3py.alignment.timed_phones import (
        TimedPhone,
        align_timed_phones,
        monophone_transition_model,
        monophone_tree_text,
    )
    from nnet3py.directories import alignment_archives
    from nnet3py.errors import UserError
    from nnet3py.nnet.transition_model import read_topology, write_transition_model_to
    from nnet3py.tables.basic_types import write_header
    from nnet3py.tables.holders import INT_VECTOR
    from nnet3py.tables.streams import open_output
    from nnet3py.tables.table import TableWriter
    from nnet3py.text.lines import fields, read_lines, read_text, write_text
    from nnet3py.text.symbols import read_symbols

    numbers = read_symbols(f"{lang_dir}/phones.txt")
    topology = read_topology(f"{lang_dir}/topo")
    model = monophone_transition_model(topology)
    phones: dict[str, list[TimedPhone]] = {}
    for line in read_lines(f"{data_dir}/phones.ctm"):
        key, _, start, duration, phone = fields(line)
        phones.setdefault(key, []).append((phone, float(start), float(duration)))
    lengths = [fields(line) for line in read_lines(f"{data_dir}/utt2num_frames")]
    if nj < 1:
        raise UserError(f"--nj must be at least 1, not {nj}.")
    nj = min(nj, len(lengths))
    Path(ali_dir).mkdir(parents=True, exist_ok=True)
    alignment_archives.start_over(ali_dir)
    with open_output(f"{ali_dir}/final.mdl") as sink:
        write_header(sink, True)
        write_transition_model_to(sink, model, True)
    write_text(f"{ali_dir}/tree", monophone_tree_text(topology))
    write_text(f"{ali_dir}/phones.txt", read_text(f"{lang_dir}/phones.txt"))
    write_text(f"{ali_dir}/num_pdfs", f"{model.num_pdfs}\n")
    frames = left_out = 0
    for job in range(nj):
        with TableWriter(f"ark:| gzip -nc > {alignment_archives.part(ali_dir, job + 1)}", INT_VECTOR) as writer:
            for key, length in lengths[job * len(lengths) // nj : (job + 1) * len(lengths) // nj]:
                try:
                    alignment = align_timed_phones(phones.get(key, []), int(length), numbers, model)
                except UserError as problem:
                    log.warning(f"{data_dir}: utterance {key} is left out: {problem}")
                    left_out += 1
                    continue
                writer.write(key, alignment)
                frames += len(alignment)
    if frames == 0:
        raise UserError(f"{data_dir}: no utterance could be aligned; the warnings say why.")
    alignment_archives.publish(ali_dir, nj)
    log.log(
        f"{ali_dir}: {len(lengths) - left_out} utterances, {frames} frames, {model.num_pdfs} pdfs; {left_out} left out."
    )


if __name__ == "__main__":
    main()
