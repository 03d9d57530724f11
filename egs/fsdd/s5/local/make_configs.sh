#!/usr/bin/env bash
# Configuration of the p-norm network, as steps/train_dnn.py takes it: init.config, final.config, vars.
#
# Spliced features, decorrelated by a fixed transform (lda.mat, which the training estimates); hidden layers of affine
# transform, p-norm and normalisation; affine transform and log-softmax: the network of arXiv:1410.7455.
#
# Usage: local/make_configs.sh <feat-dim> <context> <num-layers> <pnorm-input-dim> <pnorm-output-dim> <num-pdfs> <config-dir>
set -euo pipefail

[[ $# == 7 ]] || { sed -n 's/^# \(Usage.*\)/\1/p' "$0" >&2; exit 1; }
feat_dim=$1
context=$2
num_layers=$3
input_dim=$4
output_dim=$5
num_pdfs=$6
dir=$7

affine() { # name, node below, its dimension, outputs, options
  echo "component name=$1 type=NaturalGradientAffineComponent input-dim=$3 output-dim=$4 $5"
  echo "component-node name=$1 component=$1 input=$2"
}

mkdir -p "$dir"
frames=$(for ((t = -context; t <= context; t++)); do printf '%s' "${frame:-}Offset(input, $t)"; frame=', '; done)

cat > "$dir/init.config" <<END
input-node name=input dim=$feat_dim
output-node name=output input=Append($frames)
END

{
  echo "input-node name=input dim=$feat_dim"
  echo "component name=lda type=FixedAffineComponent matrix=$dir/lda.mat"
  echo "component-node name=lda component=lda input=Append($frames)"
  below=lda
  dim=$((feat_dim * (2 * context + 1)))
  for ((layer = 1; layer <= num_layers; layer++)); do
    affine "affine$layer" "$below" "$dim" "$input_dim" max-change=0.75
    echo "component name=pnorm$layer type=PnormComponent input-dim=$input_dim output-dim=$output_dim"
    echo "component-node name=pnorm$layer component=pnorm$layer input=affine$layer"
    echo "component name=renorm$layer type=NormalizeComponent dim=$output_dim"
    echo "component-node name=renorm$layer component=renorm$layer input=pnorm$layer"
    below=renorm$layer
    dim=$output_dim
  done
  affine final_affine "$below" "$dim" "$num_pdfs" 'param-stddev=0 bias-stddev=0 max-change=1.5'
  echo "component name=log_softmax type=LogSoftmaxComponent dim=$num_pdfs"
  echo "component-node name=log_softmax component=log_softmax input=final_affine"
  echo "output-node name=output input=log_softmax objective=linear"
} > "$dir/final.config"

echo "model_left_context=$context
model_right_context=$context" > "$dir/vars"
