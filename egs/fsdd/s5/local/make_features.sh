#!/usr/bin/env bash
# MFCCs of a data directory and their statistics by speaker.
#
# Usage: local/make_features.sh [--nj N] [--cmd CMD] <data-dir>
set -euo pipefail
. ./path.sh

nj=2
cmd=run-local
while [[ ${1:-} == --* ]]; do
  case $1 in
    --nj) nj=$2 ;;
    --cmd) cmd=$2 ;;
    *) echo "make_features.sh: no such option: $1" >&2; exit 1 ;;
  esac
  shift 2
done
[[ $# == 1 ]] || { echo "Usage: local/make_features.sh [--nj N] [--cmd CMD] <data-dir>" >&2; exit 1; }
data=$1

mkdir -p "$data/log" "$data/mfcc"
for job in $(seq "$nj"); do # consecutive utterances, so that the parts together are sorted
  lines=$(wc -l < "$data/wav.scp")
  sed -n "$(( (job - 1) * lines / nj + 1 )),$(( job * lines / nj ))p" "$data/wav.scp" > "$data/mfcc/wav.$job.scp"
done
$cmd JOB=1:"$nj" "$data/log/make_mfcc.JOB.log" compute-mfcc-feats --config=conf/mfcc.conf \
  "scp:$data/mfcc/wav.JOB.scp" "ark,scp:$data/mfcc/mfcc.JOB.ark,$data/mfcc/mfcc.JOB.scp"
for job in $(seq "$nj"); do cat "$data/mfcc/mfcc.$job.scp"; done > "$data/feats.scp"
$cmd "$data/log/cmvn.log" compute-cmvn-stats "--spk2utt=ark:$data/spk2utt" "scp:$data/feats.scp" \
  "ark,scp:$data/mfcc/cmvn.ark,$data/cmvn.scp"

expected=$(wc -l < "$data/wav.scp")
found=$(wc -l < "$data/feats.scp")
[[ $expected == "$found" ]] ||
  echo "make_features.sh: $((expected - found)) of $expected recordings of $data have no features; see $data/log." >&2
