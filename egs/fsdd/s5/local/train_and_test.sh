#!/usr/bin/env bash
# Align one training set, train a network on it, decode one test set.
#
# Usage: local/train_and_test.sh <training-set> <test-set> <exp-dir>
# e.g.:  local/train_and_test.sh train test exp/own_split
set -euo pipefail
. ./path.sh
. ./cmd.sh

[[ $# == 3 ]] || { echo "Usage: local/train_and_test.sh <training-set> <test-set> <exp-dir>" >&2; exit 1; }
train=data/$1
test=data/$2
dir=$3
jobs_initial=${jobs_initial:-2}
jobs_final=${jobs_final:-4}
seed=${seed:-0}
num_epochs=${num_epochs:-8}
samples_per_iter=${samples_per_iter:-14000} # fewer for less data: each job needs an archive of its own

mkdir -p "$dir/log"
echo "$(date +%T) aligning $train" >&2
"$steps/align_gmm.py" --totgauss=600 --seed="$seed" "$train" data/lang "$dir/mono" > "$dir/log/align.log" 2>&1 ||
  { tail -n 3 "$dir/log/align.log" >&2; exit 1; }
tail -n 1 "$dir/log/align.log" >&2

"$steps/make_graph.py" --self-loop-scale=0.1 --grammar=word data/lang "$dir/mono" "$dir/graph"

echo "$(date +%T) training" >&2
local/make_configs.sh 13 7 3 500 100 "$(cat "$dir/mono/num_pdfs")" "$dir/nnet/configs"
"$steps/train_dnn.py" --cmd="$train_cmd" --dir="$dir/nnet" --feat-dir="$train" --ali-dir="$dir/mono" \
  --feat.cmvn-opts="--norm-means=true --norm-vars=false" \
  --egs.opts="--nj 2 --num-utts-subset 100 --num-frames-diagnostic 4000" \
  --trainer.srand="$seed" \
  --trainer.num-epochs="$num_epochs" \
  --egs.frames-per-eg=2 \
  --trainer.samples-per-iter="$samples_per_iter" \
  --trainer.optimization.num-jobs-initial="$jobs_initial" \
  --trainer.optimization.num-jobs-final="$jobs_final" \
  --trainer.optimization.initial-effective-lrate=0.002 \
  --trainer.optimization.final-effective-lrate=0.0002 \
  --trainer.optimization.minibatch-size=128

# The scale of the network's log-likelihoods is that of the alignment, 0.1: the test sets choose nothing.
"$steps/decode.py" --cmd="$decode_cmd" --nj=2 --acwt=0.1 --cmvn-opts="--norm-means=true --norm-vars=false" \
  "$dir/graph" "$test" "$dir/nnet/decode_$(basename "$test")"
"$steps/score.py" "$test" "$dir/nnet/decode_$(basename "$test")"
