"""From a language's description and a model's likelihoods to words: lang directories, graphs, decoding, scoring."""
