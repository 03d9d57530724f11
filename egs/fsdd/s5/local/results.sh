#!/usr/bin/env bash
# A table of finished experiments.
#
# Usage: local/results.sh <exp-dir> ...
set -euo pipefail

printf '%-24s %-14s %10s %10s %8s   %s\n' experiment 'test set' 'log-prob' accuracy WER 'errors of words'
for dir in "$@"; do
  # The last model's row: log-probability and accuracy on the validation utterances of the training set.
  IFS=$'\t' read -r log_prob accuracy < <(awk -F '\t' '
    NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i }
    END { print $column["valid_logprob"] "\t" $column["valid_accuracy"] }' "$dir/nnet/progress.tsv")
  for wer in "$dir"/nnet/decode_*/wer_0.1; do
    test_set=$(basename "$(dirname "$wer")")
    read -r percent errors total < <(sed -n 's/^%WER \([0-9.]*\) \[ \([0-9]*\) \/ \([0-9]*\),.*/\1 \2 \3/p' "$wer")
    printf '%-24s %-14s %10s %10s %7s%%   %s of %s\n' "$(basename "$dir")" "${test_set#decode_}" "$log_prob" "$accuracy" \
      "$percent" "$errors" "$total"
  done
done
