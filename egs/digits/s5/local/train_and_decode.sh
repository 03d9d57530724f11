# Training by natural gradient on 4 jobs, and decoding, as ../run.sh does them; to be sourced, in the directory with data/
# and exp/. Uses $steps, $train_cmd, $decode_cmd, $nj and $epochs.

train() { # train DIR CONFIGS EGS ALI [more options of train_dnn.py]
  local dir=$1 configs=$2 egs=$3 ali=$4
  shift 4
  mkdir -p "$dir"
  rm -rf "$dir/configs"
  cp -r "$configs" "$dir/configs"
  rm -f "$dir/configs/splice.config"
  "$steps/train_dnn.py" --print-args=false --cmd="$train_cmd" --feat-dir=data/train --ali-dir="$ali" --egs.dir="$egs" \
    --dir="$dir" --feat.cmvn-opts=--norm-means=true --trainer.one-frame-per-eg=false --trainer.num-epochs="$epochs" \
    --trainer.optimization.num-jobs-initial=4 --trainer.optimization.num-jobs-final=4 \
    --trainer.optimization.initial-effective-lrate=0.005 --trainer.optimization.final-effective-lrate=0.0005 \
    --trainer.optimization.minibatch-size=32 --trainer.num-jobs-compute-prior=1 --trainer.prior-subset-size=2000 "$@"
}

decode() { # decode DIR: the acoustic scale is chosen on the dev set; $vectors/SET has vectors for a set, if it is given
  local dir=$1 scale set log
  for set in dev test; do
    log=$dir/decode_$set.log
    if [ $set = dev ]; then scale=0.1,0.15,0.2,0.25,0.3; else scale=$(cat "$dir/decode_dev/best_acwt"); fi
    "$steps/decode.py" --cmd="$decode_cmd" --nj="$nj" --acwt="$scale" \
      --online-ivector-dir="${vectors:+$vectors/$set}" exp/graph data/$set "$dir/decode_$set" > "$log" 2>&1 ||
      { grep -E '^(ERROR|Traceback)' "$log" >&2; return 1; }
    "$steps/score.py" --print-args=false data/$set "$dir/decode_$set"
  done
}
