#!/usr/bin/env bash
# The Free Spoken Digit Dataset: isolated digits, six speakers. See README.md.
#
# Usage: ./run.sh [--corpus PATH] [--held-out-speaker NAME] [--stage N]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh
. ./cmd.sh

stage=0
held_out_speaker=theo
corpus=../../../../shared/data/free-spoken-digit-dataset.tar.gz
[[ -e $corpus ]] || corpus= # it is downloaded then
. "$steps/parse_options.sh"
others=train_without_$held_out_speaker

if [[ $stage -le 0 ]]; then
  local/prepare_data.py --corpus="$corpus" --held-out-speaker="$held_out_speaker" data
  "$steps/prepare_lang.py" conf/lexicon.txt data/lang
fi

if [[ $stage -le 1 ]]; then
  for set in train test "$others" "test_$held_out_speaker"; do
    local/make_features.sh --nj 2 --cmd "$train_cmd" "data/$set"
  done
fi

if [[ $stage -le 2 ]]; then
  local/train_and_test.sh train test exp/own_split
fi

if [[ $stage -le 3 ]]; then
  local/train_and_test.sh "$others" "test_$held_out_speaker" "exp/without_$held_out_speaker"
fi

local/results.sh exp/own_split "exp/without_$held_out_speaker"
