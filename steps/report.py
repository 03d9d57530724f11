#!/usr/bin/env python3
"""Compare trainings: a table and a plot."""

from nnet3py.program import argument, option, program


@program(
    usage="report.py [options] <label>=<train-dir> ...",
    example='steps/report.py --plot=exp/plot.png --decode=decode_test "NG-SGD, 1 job=exp/ng1" "SGD, 1 job=exp/sgd1"',
)
@option("--decode", default="", metavar="NAME", help="Name of the scored decoding directory in each <train-dir>.")
@option(
    "--plot", "plot_file", default="", metavar="FILE", help="Also plot the validation log-probability into this PNG."
)
@option("--table", "table_file", default="", metavar="FILE", help="Also write the table into this file.")
@option("--title", default="Log-probability on validation data", help="The plot's title.")
@argument("trainings", metavar="<label>=<train-dir> ...", nargs=-1, required=True)
def main(trainings: tuple[str, ...], decode: str, plot_file: str, table_file: str, title: str) -> None:
    """Compare trainings by steps/train_dnn.py: prints a table of what each reached.

    Reads progress.tsv of each training directory and, with --decode, the word error rates that steps/score.py left in
    <train-dir>/NAME. The columns: passes over the data; of the final model, the percentage of validation frames
    classified right and the log-probability per frame on validation data and on a subset of the training data; the
    word error rate of NAME; in how many of the minibatches the change of the whole model was limited (max-change), and
    that of the component that was limited most often; the wall time of the training iterations.
    """
    from nnet3py.driver.comparison import plot, read_training, table, write_table
    from nnet3py.errors import UserError

    found = []
    for word in trainings:
        label, equals, folder = word.rpartition("=")
        if not equals or not label:
            raise UserError(f"Expected <label>=<train-dir>, found {word!r}.")
        found.append(read_training(label, folder, decode))
    text = table(found)
    print(text, end="")
    if table_file:
        write_table(text, table_file)
    if plot_file:
        plot(found, plot_file, title)


if __name__ == "__main__":
    main()
