"""From transcripts to a label for every frame: lexicon and topology, a monophone GMM, forced alignment.

The Gaussian mixtures are those of the library kaldi-hmm-gmm (in the extra ``nnet3py[recipes]``); here are the passes
over the data, the language directory, and Kaldi's files.
"""
