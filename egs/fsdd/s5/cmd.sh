# What runs jobs: run-local (this machine), run-ssh (several), or Kaldi's run.pl, queue.pl, slurm.pl, ssh.pl.
train_cmd=${train_cmd:-run-local}
decode_cmd=${decode_cmd:-run-local}
