#!/usr/bin/env bash
# Realignment with the network in the middle of training: the network of ../run.sh from three kinds of labels, those of the
# synthesiser's phone times, those of a GMM, and frames shared out evenly, with realignment and without.
#
#   local/run_realignment.sh [--work DIR] [--nj N] [--epochs E] [--times "T T ..."] [--labels "times gmm equal"]
#
# After ./run.sh --stop-stage=3 with the same --work. Natural gradient, 4 jobs an iteration; what is finished is not made
# again. Validation log-probabilities are of each training's own labels, and not to be compared; word error rates are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=$PWD

work=.
nj=2
epochs=4
times="0.3 0.6"
labels="times gmm equal"
. ./path.sh
. "$steps/parse_options.sh"
. ./cmd.sh
. local/train_and_decode.sh
cd "$work"
[ -f exp/egs/.complete ] || { echo "run_realignment.sh: run ./run.sh --stop-stage=3 first" >&2; exit 1; }
dir=exp/realignment
dim=$(feat-to-dim --print-args=false scp:data/train/feats.scp -)
per_archive=$(($(awk '{ n += $2 } END { print n }' data/train/utt2num_frames) / 8 / 5))

prepare() { # prepare LABELS ALI: examples with these labels, of the same utterances, and a transform estimated from them
  local egs=$dir/$1/egs
  "$steps/get_egs.py" --reuse=true --print-args=false --cmd="$train_cmd" --nj="$nj" --left-context=5 \
    --right-context=5 --samples-per-iter=$((per_archive < 5650 ? per_archive : 5650)) --num-train-frames-combine=10000 \
    --num-frames-diagnostic=4000 --cmvn-opts=--norm-means=true --valid-uttlist=exp/egs/valid_uttlist \
    data/train "$2" "$egs"
  "$here"/local/make_configs.py --print-args=false --context=5 --num-layers=2 --lda=$dir/$1/lda.mat \
    "$dim" "$(cat "$2/num_pdfs")" $dir/$1/configs
  $train_cmd $dir/$1/log/acc.log nnet-acc-lda-stats exp/lda/splice.raw \
    "ark:nnet-subset-egs --n=5000 ark:$egs/egs.1.ark ark:- |" $dir/$1/stats
  $train_cmd $dir/$1/log/transform.log nnet-get-feature-transform $dir/$1/lda.mat $dir/$1/stats
}

rows=()
for kind in $labels; do
  mkdir -p $dir/$kind
  case $kind in
    times) ali=exp/ali egs=exp/egs configs=exp/configs ;;
    gmm)
      ali=exp/ali_gmm
      "$steps/align_gmm.py" data/train data/lang $ali > $dir/gmm/align.log 2>&1 ;;
    equal)
      ali=exp/ali_equal
      "$steps/align_equal.py" --print-args=false --nj="$nj" data/train data/lang $ali ;;
    *) echo "run_realignment.sh: --labels may have times, gmm and equal, not $kind" >&2; exit 1 ;;
  esac
  if [ $kind != times ]; then
    prepare $kind $ali
    egs=$dir/$kind/egs configs=$dir/$kind/configs
  fi
  train $dir/$kind/plain "$configs" "$egs" $ali
  train $dir/$kind/realigned "$configs" "$egs" $ali --lang=data/lang --realign.nj="$nj" --trainer.realign-times="$times"
  decode $dir/$kind/plain
  decode $dir/$kind/realigned
  rows+=("labels of $kind=$dir/$kind/plain" "the same, realigned=$dir/$kind/realigned")
done
"$steps/report.py" --print-args=false --decode=decode_test "${rows[@]}"
