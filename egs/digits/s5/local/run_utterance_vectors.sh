#!/usr/bin/env bash
# A second input, a vector for each utterance that says what it sounds like: the network of ../run.sh with it and without.
#
#   local/run_utterance_vectors.sh [--work DIR] [--nj N] [--epochs E] [--options "OPTIONS"]
#
# After ./run.sh --stop-stage=3 with the same --work. OPTIONS are those of steps/compute_utterance_vectors.py, such as
# --per-speaker=true. Natural gradient, 4 jobs an iteration; what is finished is not made again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=$PWD

work=.
nj=2
epochs=4
options=
. ./path.sh
. "$steps/parse_options.sh"
. ./cmd.sh
. local/train_and_decode.sh
cd "$work"
[ -f exp/egs/.complete ] || { echo "run_utterance_vectors.sh: run ./run.sh --stop-stage=3 first" >&2; exit 1; }
dir=exp/utterance_vectors
mkdir -p $dir

# Vectors of the features as they are: normalised by speaker, they would have lost most of what the vectors tell.
"$steps/compute_utterance_vectors.py" --print-args=false --cmd="$train_cmd" --nj="$nj" $options data/train $dir/train
for set in dev test; do
  "$steps/compute_utterance_vectors.py" --print-args=false --cmd="$train_cmd" \
    --nj="$nj" --like=$dir/train data/$set $dir/$set
done

dim=$(feat-to-dim --print-args=false scp:data/train/feats.scp -)
vector_dim=$(feat-to-dim --print-args=false scp:$dir/train/ivector_online.scp -)
per_archive=$(($(awk '{ n += $2 } END { print n }' data/train/utt2num_frames) / 8 / 5))
"$steps/get_egs.py" --reuse=true --print-args=false --cmd="$train_cmd" --nj="$nj" --left-context=5 \
  --right-context=5 --samples-per-iter=$((per_archive < 5650 ? per_archive : 5650)) --num-train-frames-combine=10000 \
  --num-frames-diagnostic=4000 --cmvn-opts=--norm-means=true --online-ivector-dir=$dir/train data/train exp/ali $dir/egs
# The transform decorrelates the vector along with the spliced features.
"$here"/local/make_configs.py --print-args=false --context=5 --num-layers=2 --ivector-dim="$vector_dim" \
  --lda=$dir/lda.mat "$dim" "$(cat exp/ali/num_pdfs)" $dir/configs
$train_cmd $dir/log/init.log nnet-init $dir/configs/splice.config $dir/splice.raw
$train_cmd $dir/log/acc.log nnet-acc-lda-stats $dir/splice.raw \
  "ark:nnet-subset-egs --n=5000 ark:$dir/egs/egs.1.ark ark:- |" $dir/stats
$train_cmd $dir/log/transform.log nnet-get-feature-transform $dir/lda.mat $dir/stats

train exp/ng_4jobs exp/configs exp/egs exp/ali
train $dir/ng_4jobs $dir/configs $dir/egs exp/ali --feat.online-ivector-dir=$dir/train
decode exp/ng_4jobs
vectors=$dir decode $dir/ng_4jobs
"$steps/report.py" --print-args=false --decode=decode_test "features alone=exp/ng_4jobs" \
  "with a vector per utterance=$dir/ng_4jobs"
