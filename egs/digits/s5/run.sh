#!/usr/bin/env bash
# The whole job on speech that is made here: connected digit strings in many voices, with noise; four trainings of one
# p-norm network (natural gradient and plain SGD, each with 1 and with 4 jobs an iteration); decoding; a table.
#
#   ./run.sh [--hours H] [--snr LOW:HIGH] [--seed N] [--epochs E] [--nj N] [--stage S] [--stop-stage S] [--work DIR]
#
# Every stage leaves files, so a stopped run goes on: with the same command (what is finished is not made again) or
# with --stage. data/ and exp/ are made in --work (default: here). Another --hours, --snr or --seed needs another one,
# or remove data/ and exp/ first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD

work=.           # data/ and exp/ are made in there
stage=0          # start here
stop_stage=100   # and stop after this
hours=1          # of training speech
snr=5:20         # dB, lowest and highest
seed=1
nj=2             # jobs at once in stages 0, 1, 2 and 5

epochs=4
context=5
layers=2
ng_lrate="0.005 0.0005"     # effective rate at the start and the end; RESULTS has the rates tried
sgd_lrate="0.32 0.0005"
sgd_lrate_4jobs="0.32 0.0001"
egs_per_archive=5650        # of 8 frames: what a job trains on in an iteration, 45000 frames
minibatch=32                # examples, so 256 frames

. ./path.sh
. "$steps/parse_options.sh"
. ./cmd.sh
mkdir -p "$work"
cd "$work"

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
at() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]; }
quiet() { # quiet LOG COMMAND...: what it says goes into LOG, and on the screen only if it fails
  local log=$1; shift
  mkdir -p "$(dirname "$log")"
  "$@" > "$log" 2>&1 || { grep -E '^(ERROR|WARNING|Traceback)' "$log" >&2 || tail -n 5 "$log" >&2
    echo "run.sh: stopped; all that was said is in $log" >&2; exit 1; }
}
# The settings that data/ was made with: going on with others would mix two corpora.
settings="hours=$hours snr=$snr seed=$seed"
if [ -f data/settings ] && [ "$(cat data/settings)" != "$settings" ]; then
  echo "run.sh: data/ was made with $(cat data/settings), now it is $settings: remove data/ and exp/ first." >&2
  exit 1
fi

if at 0 && [ ! -f data/settings ]; then
  say "Speaking $hours hours of digits for training, and a dev and a test set in other voices"
  quiet exp/log/make_corpus.log "$here"/local/make_corpus.py --hours="$hours" --snr="$snr" --seed="$seed" --nj="$nj" data
  echo "$settings" > data/settings
  sed -n 's/.*) data/  data/p' exp/log/make_corpus.log
fi

if at 1; then
  say "Computing MFCC features and their means per speaker"
  for set in train dev test; do
    dir=data/$set
    mkdir -p "$dir/split" "$dir/mfcc"
    for job in $(seq "$nj"); do awk -v n="$nj" -v j="$job" 'NR % n == j % n' $dir/wav.scp > "$dir/split/wav.$job.scp"; done
    $train_cmd JOB=1:"$nj" exp/log/mfcc_$set.JOB.log compute-mfcc-feats --config="$here"/conf/mfcc.conf \
      scp:$dir/split/wav.JOB.scp ark,scp:$dir/mfcc/feats.JOB.ark,$dir/split/feats.JOB.scp
    for job in $(seq "$nj"); do cat "$dir/split/feats.$job.scp"; done | sort > $dir/feats.scp
    $train_cmd exp/log/cmvn_$set.log compute-cmvn-stats --spk2utt=ark:$dir/spk2utt scp:$dir/feats.scp \
      ark,scp:$dir/mfcc/cmvn.ark,$dir/cmvn.scp
    $train_cmd exp/log/lengths_$set.log feat-to-len scp:$dir/feats.scp ark,t:$dir/utt2num_frames
    rm -r "$dir/split"
  done
fi

if at 2; then
  say "Making the lexicon, the alignment (from the synthesiser's phone times) and the decoding graph"
  quiet exp/log/lexicon.log "$here"/local/prepare_lexicon.py data/train/prons.txt data/local/lexicon.txt
  quiet exp/log/lang.log "$steps/prepare_lang.py" --num-sil-states=3 data/local/lexicon.txt data/lang
  quiet exp/log/ali.log "$here"/local/align_phones.py data/train data/lang exp/ali
  quiet exp/log/graph.log "$steps/make_graph.py" data/lang exp/ali exp/graph
fi

if at 3; then
  say "Cutting the training examples, once for all trainings; estimating the decorrelating input transform"
  num_pdfs=$(cat exp/ali/num_pdfs)
  quiet exp/log/configs.log "$here"/local/make_configs.py --context="$context" --num-layers="$layers" --lda=exp/lda/lda.mat \
    "$(feat-to-dim --print-args=false scp:data/train/feats.scp -)" "$num_pdfs" exp/configs
  # Four jobs need four archives at least; of little data they are smaller.
  examples=$(($(awk '{ n += $2 } END { print n }' data/train/utt2num_frames) / 8))
  [ $((examples / 5)) -ge "$egs_per_archive" ] || egs_per_archive=$((examples / 5))
  # Made again if anything they are made of has changed; trainings that were begun on others then say so.
  quiet exp/log/get_egs.log "$steps/get_egs.py" --reuse=true --cmd="$train_cmd" --nj=2 \
    --left-context="$context" --right-context="$context" --samples-per-iter="$egs_per_archive" \
    --num-train-frames-combine=10000 --num-frames-diagnostic=4000 --cmvn-opts=--norm-means=true \
    data/train exp/ali exp/egs
  mkdir -p exp/lda
  $train_cmd exp/lda/log/init.log nnet-init exp/configs/splice.config exp/lda/splice.raw
  $train_cmd exp/lda/log/acc.log nnet-acc-lda-stats exp/lda/splice.raw \
    "ark:nnet-subset-egs --n=5000 ark:exp/egs/egs.1.ark ark:- |" exp/lda/stats
  $train_cmd exp/lda/log/transform.log nnet-get-feature-transform exp/lda/lda.mat exp/lda/stats
fi

train() { # train DIR METHOD JOBS-AT-FIRST JOBS-AT-LAST INITIAL-RATE FINAL-RATE
  # What is finished with the same options, examples and configuration is not made again; if one is another, it is said.
  mkdir -p "$1"
  rm -rf "$1/configs"
  cp -r exp/configs "$1/"
  rm -f "$1/configs/splice.config"
  "$steps/train_dnn.py" --print-args=false --cmd="$train_cmd" --feat-dir=data/train --ali-dir=exp/ali \
    --egs.dir=exp/egs --dir="$1" --feat.cmvn-opts=--norm-means=true --trainer.one-frame-per-eg=false \
    --trainer.update-method="$2" --trainer.num-epochs="$epochs" \
    --trainer.optimization.num-jobs-initial="$3" --trainer.optimization.num-jobs-final="$4" \
    --trainer.optimization.initial-effective-lrate="$5" --trainer.optimization.final-effective-lrate="$6" \
    --trainer.optimization.minibatch-size="$minibatch" \
    --trainer.num-jobs-compute-prior=1 --trainer.prior-subset-size=2000
}

if at 4; then
  # The two trainings with one job each keep one core busy: they run side by side. Those with more run in turn.
  say "Training with 1 job: natural gradient, and beside it plain SGD (its log is exp/log/sgd_1job.log)"
  train exp/sgd_1job sgd 1 1 $sgd_lrate > exp/log/sgd_1job.log 2>&1 &
  other=$!
  trap 'kill $other 2> /dev/null || true' EXIT
  train exp/ng_1job online-ng 1 1 $ng_lrate
  wait $other || { grep -E '^(ERROR|Traceback)' exp/log/sgd_1job.log >&2; exit 1; }
  trap - EXIT
  say "Training with 4 jobs an iteration: natural gradient"
  train exp/ng_4jobs online-ng 4 4 $ng_lrate
  say "Training with 4 jobs an iteration: plain SGD"
  train exp/sgd_4jobs sgd 4 4 $sgd_lrate_4jobs
fi

if at 5; then
  say "Decoding: the dev set to choose the acoustic scale, then the test set with it"
  for name in ng_1job ng_4jobs sgd_1job sgd_4jobs; do
    for set in dev test; do
      dir=exp/$name/decode_$set
      if [ $set = dev ]; then scale=0.1,0.15,0.2,0.25,0.3; else scale=$(cat exp/$name/decode_dev/best_acwt); fi
      quiet exp/log/decode_${name}_$set.log "$steps/decode.py" --cmd="$decode_cmd" --nj="$nj" --acwt="$scale" \
        exp/graph data/$set $dir
      quiet exp/log/score_${name}_$set.log "$steps/score.py" --print-args=false data/$set $dir
    done
    sed "s/^/  /" exp/log/score_${name}_test.log
  done
fi

if at 6; then
  say "Results: validation data are training voices held out by utterance; WER is of the test set, in other voices"
  "$steps/report.py" --print-args=false --decode=decode_test --plot=exp/convergence.png --table=exp/results.md \
    "natural gradient, 1 job=exp/ng_1job" "natural gradient, 4 jobs=exp/ng_4jobs" \
    "plain SGD, 1 job=exp/sgd_1job" "plain SGD, 4 jobs=exp/sgd_4jobs"
  say "The table is in exp/results.md, the plot in exp/convergence.png (in $PWD)"
fi
