#!/usr/bin/env bash
# The corpus of egs/fsdd, one speaker held out as the test set, laid out as the trials need it: data/{train,test}, exp/ali
# (the GMM's alignment), exp/graph, exp/lda.
#
# Usage: prepare_fsdd.sh <work> <make-configs>
set -euo pipefail
work=$(realpath -m "$1")
make_configs=$2
cd "$(dirname "${BASH_SOURCE[0]}")/../../../../fsdd/s5"
. ./path.sh

corpus=../../../../shared/data/free-spoken-digit-dataset.tar.gz
[[ -e $corpus ]] || corpus= # it is downloaded then
mkdir -p "$work/exp/lda"
local/prepare_data.py --corpus="$corpus" --held-out-speaker=theo "$work/data"
rm -rf "$work/data/train" "$work/data/test"
mv "$work/data/train_without_theo" "$work/data/train"
mv "$work/data/test_theo" "$work/data/test"
"$steps/prepare_lang.py" conf/lexicon.txt "$work/data/lang"
for set in train test; do
  local/make_features.sh --nj 2 "$work/data/$set"
done

cd "$work"
"$steps/align_gmm.py" --totgauss=600 data/train data/lang exp/ali
"$steps/make_graph.py" --self-loop-scale=0.1 --grammar=word data/lang exp/ali exp/graph
"$make_configs" --context=5 --lda=exp/lda/lda.mat 13 "$(cat exp/ali/num_pdfs)" exp/configs
"$steps/get_egs.py" --nj=2 --left-context=5 --right-context=5 --samples-per-iter=2000 --cmvn-opts=--norm-means=true \
  data/train exp/ali exp/egs
nnet-init exp/configs/splice.config exp/lda/splice.raw
nnet-acc-lda-stats exp/lda/splice.raw ark:exp/egs/egs.1.ark exp/lda/stats
nnet-get-feature-transform exp/lda/lda.mat exp/lda/stats
rm -r exp/egs
