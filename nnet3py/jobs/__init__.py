"""Engines that run `cmd [options] [JOB=1:N] log-file command...`, the calling convention of Kaldi's run.pl."""
