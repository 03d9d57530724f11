# The programs of this checkout, then the Python that `make` installed, ahead of everything else.
nnet3py_root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
export PATH="$nnet3py_root/bin:$nnet3py_root/.venv/bin:$PATH"
export steps="$nnet3py_root/steps"
export LC_ALL=C
# A job is one core: more threads in its matrix products would only take cores from the other jobs.
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
