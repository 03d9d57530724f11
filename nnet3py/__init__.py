"""nnet3py: Kaldi-style programs that train deep networks by natural gradient and parameter averaging.

The method is that of Povey, Zhang and Khudanpur, "Parallel training of DNNs with natural gradient and
parameter averaging" (arXiv:1410.7455). Importing this package loads nothing heavy: programs answer
``--help`` before NumPy is touched.
"""

__version__ = "0.1.0"
