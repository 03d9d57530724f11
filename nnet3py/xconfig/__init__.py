"""Kaldi's xconfig: a network as a list of layers, a line each, turned into configuration lines for ``nnet-init``.

    input dim=40 name=input
    relu-batchnorm-layer name=tdnn1 dim=512 input=Append(-1,0,1)
    output-layer name=output dim=2000

A line is read (:mod:`.xconfig_line`), its type looked up (:mod:`.layer_types`), its values and its ``input=``
descriptor checked against the lines before it (:mod:`.layer`, :mod:`.key`, :mod:`.descriptor`); then each layer says
which lines it puts into which file. :mod:`.config_directory` writes the files and finds the network's context.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/. Names, defaults and the text of the generated lines are Kaldi's to
the byte, blanks included, so that a file made here and one made there compare equal but for the comments at the top.
"""
