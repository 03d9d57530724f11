r"""Natural gradient for the update of an affine layer: an online factored estimate, and a simple per-minibatch one.

An affine layer that sees input rows ``x`` (with a 1 appended for the bias) and output derivatives ``y`` has the
gradient ``Σ y xᵀ``. Plain SGD walks along it. Natural gradient first multiplies each ``x`` and each ``y`` by the
inverse of (an approximation of) the scatter of such vectors, so that a direction in which the vectors are always long
takes small steps and a direction seldom visited takes large ones. What remains here is one problem, solved once for
the inputs and once for the output derivatives of every layer: rows ``X`` (N, D) arrive a minibatch at a time; keep an
estimate of their uncentred covariance and multiply them by its smoothed inverse.

Online method
=============

*The model.* The estimate is a multiple of the identity plus a matrix of low rank ``r``::

    F = Rᵀ D R + ρ I          R (r, D) with orthonormal rows, D diagonal, ρ > 0                    (model)

*Smoothing.* Before inverting, a part of the mean eigenvalue is added to every direction::

    G = F + (α/D) tr(F) I = Rᵀ D R + β I,      β = ρ (1 + α) + (α/D) tr(D)                         (smoothed)

*Applying it.* By the matrix inversion lemma, and because R Rᵀ = I, ``β G⁻¹ = I - Rᵀ E R`` with the diagonal

    e_i = 1 / (β/d_i + 1),      so that with  W = E^½ R:      X̂ = β X G⁻¹ = X - (X Wᵀ) W           (apply)

W is what is stored. The factor β does not matter, since the result is multiplied by

    s = ‖X‖ / ‖X̂‖                                                                                  (scale)

which leaves the size of a step to the learning rate and only its direction to the estimate. X̂ need not be formed to
know s: with H = X Wᵀ and L = Hᵀ H,  ``‖X̂‖² = ‖X‖² - 2 tr L + tr(L W Wᵀ)``                           (norm)

*Keeping it up to date.* Of the minibatch's covariance S = XᵀX/N and of the estimate, a forgetting average is taken,
with a weight that forgets at the same rate per row whatever the minibatch size::

    T = η S + (1-η) F,          η = min(0.9, 1 - exp(-N / history))                                (average)

T is to be squeezed into the form (model) again. The best r directions would be the leading eigenvectors of T; one step
of subspace iteration from the present R is enough, as T changes slowly: Y = R T, orthonormalised. With J = HᵀX, hence
R XᵀX = E^-½ J, and R F = (D + ρI) R::

    Y = (η/N) E^-½ J + (1-η) (D + ρI) R                                                            (power)
    Z = Y Yᵀ = (η/N)² E^-½ K E^-½ + (η/N)(1-η) (E^-½ L E^-½ (D+ρI) + its transpose) + (1-η)² (D+ρI)²,   K = J Jᵀ
                                                                                                   (Z)
    Z = U C Uᵀ    gives the new    R' = C^-½ Uᵀ Y,   whose rows are orthonormal since R' R'ᵀ = C^-½ Uᵀ Z U C^-½ = I

C^½ are the lengths that T gives to the directions, that is its eigenvalues as far as the iteration has converged, so
F' should give them too: ``d'_i + ρ' = c_i^½``; and the trace of T shall be kept, which settles ρ'::

    ρ' = (η tr(S) + (1-η) (D ρ + tr(D)) - tr(C^½)) / (D - r),      D' = C^½ - ρ' I                 (spectrum)

Everything that is as long as a row or a minibatch is done in two products with the stored W, nothing with R::

    W' = E'^½ R' = A B,   A = (η/N) E'^½ C^-½ Uᵀ E^-½,   B = J + ((1-η) N/η) (D + ρI) W            (new W)

*Rounding.* C is floored at its smallest possible value ((1-η) ρ)². ρ' and D' are floored at 1e-10 and at 5e-4 of the
largest c_i^½, so that nothing decays to zero when the rows do. Single precision loses the orthogonality of R' when C
spans more than six orders of magnitude; then ``O = R' R'ᵀ`` is computed and, unless it is near the identity, undone
with its Cholesky factor (which leaves the leading rows as they are), or by a QR factorisation if O is too singular.

*Several threads* may share one estimate. Each applies what is stored at the moment. One at a time updates it: a thread
that finds another at that, or finds the estimate replaced since it computed its H, does without the update.

*Starting.* R is a fixed orthonormal matrix without zero rows or columns, ρ = d_i = 1e-10, and the first minibatch is
used to update three times (once if it has no more rows than r) before it is first used in earnest. The estimate is
updated on the first eleven minibatches and then on every ``update_period``-th: it changes slowly.

Sources: D. Povey, X. Zhang, S. Khudanpur, arXiv:1410.7455, section 4 and appendix B; Kaldi
src/nnet3/natural-gradient-online.{h,cc}, whose choices of floors, start and schedule are kept so that results agree.

Simple method
=============

:func:`simple_natural_gradient`: no memory; row i is multiplied by the inverse of the smoothed scatter of the *other*
rows of its minibatch (arXiv:1410.7455, section 4; Kaldi src/nnet2/nnet-precondition.cc).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

_EPSILON = 1.0e-10  # floor of ρ and of the d_i
_DELTA = 5.0e-4  # floor of ρ and of the d_i, relative to the largest eigenvalue of F
_NUM_INITIAL_UPDATES = 10  # minibatches 0 to 10 all update the estimate
_MAX_CONDITION = 1.0e6  # of C: beyond it orthogonality is checked
_ORTHOGONALITY_TOLERANCE = 1.0e-3
_MAX_CHOLESKY_INVERSE = 100.0
_CANCELLATION = 1.0e-2  # below this part of ‖X‖², (norm) loses too many digits in single precision


@dataclass
class NaturalGradientState:
    """The estimate F of one set of rows, as stored between minibatches: plain arrays, to be saved and restored.

    W: (rank, dim) float32, E^½ R. d: (rank,) float64. rho: ρ. gram: (rank, rank) float32, W Wᵀ. minibatch: how many
    minibatches have been preconditioned. An update makes another object, so that who has this one may go on with it.
    """

    W: Array
    d: Array
    rho: float
    gram: Array
    minibatch: int = 0


@dataclass(frozen=True)
class Preconditioned:
    """X̂ = X - H W of (apply), kept in factors: for a product Yᵀ X̂ it is often cheaper not to form X̂.

    rows: (N, columns) X without the appended ones. H: (N, rank) and W: (rank, dim), both None where X̂ = X; dim is
    columns, or columns + 1 if ones were appended. scale: s, or NaN if the rows are not finite. formed: X̂ where it had
    to be formed to know s.
    """

    rows: Array
    H: Array | None
    W: Array | None
    scale: float
    formed: Array | None = None

    @property
    def finite(self) -> bool:
        """Whether the rows had only finite values of a size whose square can be represented."""
        return math.isfinite(self.scale)

    def form(self, out: Array | None = None) -> Array:
        """X̂ (N, columns), without the column of the appended ones; ``out`` holds it if it has that shape."""
        if self.H is None or self.W is None:
            return self.rows
        if self.formed is not None:
            return self.formed
        if out is None or out.shape != self.rows.shape:
            out = np.empty_like(self.rows)
        product = np.matmul(self.H, self.W[:, : self.rows.shape[1]], out=out)
        return np.subtract(self.rows, product, out=product)

    def form_ones(self) -> Array:
        """What became of the appended column of ones: (N,)."""
        if self.H is None or self.W is None:
            return np.ones(len(self.rows), np.float32)
        return 1.0 - self.H @ self.W[:, -1]


class OnlineNaturalGradient:
    """Preconditions rows with a running estimate of their covariance; see the module's text.

    rank: r, at most dim - 1. alpha: α. update_period: minibatches from one update of the estimate to the next, after
    the first ones. num_samples_history: rows after which the past counts 1/e as much; num_minibatches_history, if
    above zero, fixes η to its inverse instead. While ``frozen``, the estimate is applied and not updated. Threads may
    use one object at the same time.
    """

    def __init__(
        self,
        rank: int = 40,
        alpha: float = 4.0,
        update_period: int = 1,
        num_samples_history: float = 2000.0,
        num_minibatches_history: float = 0.0,
    ) -> None:
        if rank < 1 or update_period < 1:
            raise ValueError(f"rank {rank} and update period {update_period} must be at least 1")
        if not alpha >= 0.0 or not 0.0 < num_samples_history <= 1.0e6:
            raise ValueError(f"alpha {alpha} must not be negative, history {num_samples_history} in (0, 1e6]")
        if num_minibatches_history != 0.0 and not 1.0 < num_minibatches_history <= 1.0e6:
            raise ValueError(f"history of {num_minibatches_history} minibatches must be in (1, 1e6], or 0")
        self.rank = rank
        self.alpha = alpha
        self.update_period = update_period
        self.num_samples_history = num_samples_history
        self.num_minibatches_history = num_minibatches_history
        self.frozen = False
        self.state: NaturalGradientState | None = None
        self.updates_rejected = 0
        self._updating_one = threading.Lock()
        self._buffers = threading.local()

    def precondition(self, rows: Array, append_one: bool = False) -> tuple[Array, float]:
        """X̂ (N, dim) and the scale s by which the caller is to multiply it, for ``rows`` (N, columns) float32.

        With ``append_one`` a column of ones is appended first. Rows that are not finite are returned as they are with
        scale NaN, and leave the estimate as it was.
        """
        factors = self.factors(rows, append_one)
        hat = factors.form() if factors.finite else rows
        if append_one:
            hat = np.concatenate([hat, factors.form_ones()[:, None]], axis=1)
        return hat, factors.scale

    def factors(self, rows: Array, append_one: bool = False) -> Preconditioned:
        """As :meth:`precondition`, the result in factors; it is valid until this thread's next call."""
        num_rows, columns = rows.shape
        dim = columns + append_one
        if num_rows == 0 or dim == 1:  # in one dimension the rescaled result is the input
            return Preconditioned(rows, None, None, 1.0)
        squared_norm = squared_frobenius_norm(rows) + (num_rows if append_one else 0.0)
        if not math.isfinite(squared_norm):
            return Preconditioned(rows, None, None, math.nan)
        if self.state is None:
            self._start(rows, append_one, squared_norm)
        state = self.state
        assert state is not None
        if state.W.shape[1] != dim:
            raise ValueError(f"rows of dimension {dim} given to an estimate of dimension {state.W.shape[1]}")
        H = self._project(rows, append_one, state.W)
        L = H.T @ H
        factors = self._scaled(Preconditioned(rows, H, state.W, 1.0), append_one, state, L, squared_norm)
        if self._updating(state.minibatch) and self._updating_one.acquire(blocking=False):
            try:
                if self.state is state:
                    self.state = self._updated(state, rows, append_one, H, L, squared_norm)
            finally:
                self._updating_one.release()
        (self.state or state).minibatch += 1
        return factors

    def orthogonality_error(self) -> float:
        """Largest element of |R Rᵀ - I|; also checks the floors (AssertionError). A self-test, not free of cost."""
        state = self.state
        assert state is not None, "there is no estimate before the first minibatch"
        largest = float(state.d.max())
        assert state.rho >= _EPSILON
        assert state.d.min() >= _EPSILON
        assert min(state.rho, state.d.min()) > 0.9 * _DELTA * largest
        inverse_sqrt_e = 1.0 / np.sqrt(self._e(state.d, state.rho, state.W.shape[1]))
        R = state.W.astype(np.float64) * inverse_sqrt_e[:, None]
        return float(np.abs(R @ R.T - np.eye(len(R))).max())

    def _updating(self, minibatch: int) -> bool:
        return not self.frozen and is_update_due(minibatch, self.update_period)

    def _eta(self, num_rows: int) -> float:
        """η of (average)."""
        if self.num_minibatches_history > 0.0:
            return 1.0 / self.num_minibatches_history
        return forgetting_weight(num_rows, self.num_samples_history)

    def _e(self, d: Array, rho: float, dim: int) -> Array:
        return smoothed_inverse_diagonal(d, rho, dim, self.alpha)

    def _start(self, rows: Array, append_one: bool, squared_norm: float) -> None:
        """The fixed start, then a few updates on the first minibatch."""
        with self._updating_one:
            if self.state is None:
                self.state = self._started(rows, append_one, squared_norm)

    def _started(self, rows: Array, append_one: bool, squared_norm: float) -> NaturalGradientState:
        dim = rows.shape[1] + append_one
        rank = min(self.rank, dim - 1)
        d = np.full(rank, _EPSILON)
        W = _orthonormal_start(rank, dim) * np.sqrt(self._e(d, _EPSILON, dim))[:, None]
        W = W.astype(np.float32)
        state = NaturalGradientState(W, d, _EPSILON, W @ W.T)
        # From no more rows than r, one update already finds the space that they span.
        for _ in range(1 if len(rows) <= rank else 3):
            H = self._project(rows, append_one, state.W)
            state = self._updated(state, rows, append_one, H, H.T @ H, squared_norm)
        return state

    def _project(self, rows: Array, append_one: bool, W: Array) -> Array:
        """H = X Wᵀ, in a buffer that this thread's next call overwrites."""
        buffer = getattr(self._buffers, "H", None)
        if buffer is None or buffer.shape != (len(rows), len(W)):
            buffer = self._buffers.H = np.empty((len(rows), len(W)), np.float32)
        H: Array = np.matmul(rows, W[:, : rows.shape[1]].T, out=buffer)
        if append_one:
            H += W[:, -1]
        return H

    def _scaled(
        self, factors: Preconditioned, append_one: bool, state: NaturalGradientState, L: Array, squared_norm: float
    ) -> Preconditioned:
        """The factors with s of (scale)."""
        if squared_norm == 0.0:
            return factors
        formed = None
        squared_norm_hat = squared_norm - 2.0 * float(L.trace(dtype=np.float64)) + float(np.vdot(L, state.gram))
        if squared_norm_hat < _CANCELLATION * squared_norm:
            formed = factors.form()
            squared_norm_hat = squared_frobenius_norm(formed)
            if append_one:
                squared_norm_hat += squared_frobenius_norm(factors.form_ones())
        scale = math.sqrt(squared_norm / squared_norm_hat) if squared_norm_hat > 0.0 else 1.0
        return Preconditioned(factors.rows, factors.H, factors.W, scale, formed)

    def _updated(
        self, state: NaturalGradientState, rows: Array, append_one: bool, H: Array, L: Array, squared_norm: float
    ) -> NaturalGradientState:
        """The next estimate; where that is not finite, which is counted, the one before."""
        J = np.empty(state.W.shape, np.float32)
        np.matmul(H.T, rows, out=J[:, : rows.shape[1]])
        if append_one:
            H.sum(axis=0, out=J[:, -1])
        new = updated_state(state, J, L, squared_norm, len(rows), self._eta(len(rows)), self.alpha)
        self.updates_rejected += new is state
        return new

    def started(self, rows: Array, append_one: bool = False) -> NaturalGradientState:
        """The estimate with which the first minibatch, of finite ``rows``, is preconditioned."""
        squared_norm = squared_frobenius_norm(rows) + (len(rows) if append_one else 0.0)
        return self._started(rows, append_one, squared_norm)


def is_update_due(minibatch: int, update_period: int) -> bool:
    """Whether the estimate is to be updated on this minibatch, counted from 0."""
    past_start = minibatch - _NUM_INITIAL_UPDATES
    return past_start <= 0 or past_start % update_period == 0


def forgetting_weight(num_rows: int, num_samples_history: float) -> float:
    """η of (average)."""
    return min(0.9, 1.0 - math.exp(-num_rows / num_samples_history))


def smoothed_inverse_diagonal(d: Array, rho: float, dim: int, alpha: float) -> Array:
    """The diagonal of E, (apply), through β of (smoothed)."""
    beta = rho * (1.0 + alpha) + alpha * d.sum() / dim
    return 1.0 / (beta / d + 1.0)


def updated_state(
    state: NaturalGradientState, J: Array, L: Array, squared_norm: float, num_rows: int, eta: float, alpha: float
) -> NaturalGradientState:
    """The next estimate from J (rank, dim), which is overwritten, and L (rank, rank) of ``num_rows`` rows.

    Where that is not finite, ``state`` itself.
    """
    rank, dim = state.W.shape
    d, rho = state.d, state.rho
    inverse_sqrt_e = 1.0 / np.sqrt(smoothed_inverse_diagonal(d, rho, dim, alpha))
    K = J @ J.T
    Z = _power_scatter(eta, num_rows, d + rho, inverse_sqrt_e, K, L)
    if not np.isfinite(Z).all():
        return state
    c, U = np.linalg.eigh(Z)
    c, U = c[::-1], U[:, ::-1]  # the largest first: a later reorthogonalisation keeps the first rows best
    floor = ((1.0 - eta) * rho) ** 2
    ill_conditioned = bool(c[0] > _MAX_CONDITION * c[-1] or c[-1] < floor)
    sqrt_c = np.sqrt(np.maximum(c, floor))

    new_rho = (eta / num_rows * squared_norm + (1.0 - eta) * (dim * rho + d.sum()) - sqrt_c.sum()) / (dim - rank)
    new_d = sqrt_c - new_rho  # (spectrum)
    smallest = max(_EPSILON, _DELTA * float(sqrt_c[0]))
    new_rho = max(new_rho, smallest)
    new_d = np.maximum(new_d, smallest)

    sqrt_new_e = np.sqrt(smoothed_inverse_diagonal(new_d, new_rho, dim, alpha))
    A = (eta / num_rows) * (sqrt_new_e / sqrt_c)[:, None] * U.T * inverse_sqrt_e  # (new W)
    J += ((1.0 - eta) * num_rows / eta * (d + rho)).astype(np.float32)[:, None] * state.W
    W = A.astype(np.float32) @ J
    gram = W @ W.T
    if ill_conditioned and not _is_orthonormal(gram, sqrt_new_e):
        W = reorthogonalised(W, sqrt_new_e)
        gram = W @ W.T
    if not (np.isfinite(gram).all() and math.isfinite(new_rho)):
        return state
    return NaturalGradientState(W, new_d, float(new_rho), gram, state.minibatch)


def _orthonormal_start(rank: int, dim: int) -> Array:
    """(rank, dim) float64 with orthonormal rows: row i is 1.1 in column i and 1 in every rank-th column after it.

    The 1.1 keeps the vector of ones out of the rows' span: derivatives often vanish in just that direction.
    """
    R = np.zeros((rank, dim))
    columns = np.arange(dim)
    R[columns % rank, columns] = 1.0
    R[np.arange(rank), np.arange(rank)] = 1.1
    return R / np.linalg.norm(R, axis=1, keepdims=True)


def _power_scatter(eta: float, num_rows: int, d_rho: Array, inverse_sqrt_e: Array, K: Array, L: Array) -> Array:
    """Z (rank, rank) float64 of (Z); it grows as the fourth power of the rows, hence the precision."""
    outer = inverse_sqrt_e[:, None] * inverse_sqrt_e
    cross = (outer * L.astype(np.float64)) * d_rho
    Z = (eta / num_rows) ** 2 * (outer * K.astype(np.float64))
    Z += eta / num_rows * (1.0 - eta) * (cross + cross.T)
    Z[np.diag_indices_from(Z)] += (1.0 - eta) ** 2 * d_rho**2
    return 0.5 * (Z + Z.T)


def _is_orthonormal(gram: Array, sqrt_e: Array) -> bool:
    """Whether the rows of R = E^-½ W are nearly orthonormal, from W Wᵀ. Without meaning where that is not finite."""
    with np.errstate(all="ignore"):
        products = gram / np.outer(sqrt_e, sqrt_e)
        return bool(np.abs(products - np.eye(len(gram))).max() <= _ORTHOGONALITY_TOLERANCE)


def reorthogonalised(W: Array, sqrt_e: Array) -> Array:
    """W corrected so that R = E^-½ W has orthonormal rows; unchanged if it nearly has them, or is not finite."""
    R = W.astype(np.float64) / sqrt_e[:, None]
    products = R @ R.T
    if not np.isfinite(products).all() or np.abs(products - np.eye(len(R))).max() <= _ORTHOGONALITY_TOLERANCE:
        return W
    try:
        C = np.linalg.cholesky(products)
        inverse = np.tril(np.linalg.inv(C))
        if inverse.max() < _MAX_CHOLESKY_INVERSE:
            return ((inverse @ R) * sqrt_e[:, None]).astype(np.float32)
    except np.linalg.LinAlgError:
        pass  # R Rᵀ is singular to working precision
    Q, triangle = np.linalg.qr(R.T)
    signs = np.where(np.diag(triangle) < 0.0, -1.0, 1.0)  # Gram-Schmidt's sign: rows keep pointing where they did
    return ((Q * signs).T * sqrt_e[:, None]).astype(np.float32)


def squared_frobenius_norm(array: Array) -> float:
    """Sum of squares of a float32 array of any shape, without a temporary where it is contiguous."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    flat = array.ravel(order="K")
    with np.errstate(over="ignore", invalid="ignore"):  # callers look at the result
        return float(np.dot(flat, flat))


def simple_natural_gradient(rows: Array, alpha: float = 4.0) -> Array:
    r"""Rows (N, D) each multiplied by the inverse smoothed scatter of the others, then rescaled to the norm they had.

    For row i the matrix is ``G_i = λI + (Σ_j x_j x_jᵀ - x_i x_iᵀ)/(N-1)`` with ``λ = α tr(XᵀX)/(N D)``. With G the
    matrix that leaves nothing out, ``q_i = G⁻¹ x_i`` and ``γ_i = x_iᵀ q_i``, the inversion of a rank-one change
    (Sherman-Morrison) gives ``G_i⁻¹ x_i = q_i (1 + γ_i/(N-1-γ_i))``: one inversion for all rows. If N < D, the smaller
    system ``(λI + XXᵀ/(N-1))⁻¹ X`` is the same. One row, or rows of zeros, are returned unchanged; rows that are not
    finite give NaN.

    Source: arXiv:1410.7455, section 4; Kaldi src/nnet2/nnet-precondition.cc, PreconditionDirectionsAlphaRescaled.
    """
    num_rows, dim = rows.shape
    squared_norm = squared_frobenius_norm(rows)
    if not math.isfinite(squared_norm):
        return np.full_like(rows, np.nan)
    if num_rows <= 1 or dim == 0 or squared_norm == 0.0:
        return rows
    smoothing = max(squared_norm, 1.0e-20) * alpha / (num_rows * dim)
    left = num_rows < dim
    gram = rows @ rows.T if left else rows.T @ rows
    gram *= np.float32(1.0 / (num_rows - 1))
    gram[np.diag_indices_from(gram)] += np.float32(smoothing)
    # λ is α times the mean eigenvalue of what it is added to: single precision is enough.
    from scipy.linalg.lapack import spotrf, spotri  # here: the import takes a tenth of a second

    factor, singular = spotrf(gram, lower=1)
    if not singular:
        triangle, singular = spotri(factor, lower=1)
    if singular:
        return np.full_like(rows, np.nan)  # only an alpha of nearly 0 with linearly dependent rows comes here
    inverse = np.tril(triangle) + np.tril(triangle, -1).T
    Q = inverse @ rows if left else rows @ inverse
    gamma = np.einsum("ij,ij->i", rows, Q, dtype=np.float64)
    Q *= (1.0 + gamma / (num_rows - 1 - gamma)).astype(np.float32)[:, None]
    squared_norm_hat = squared_frobenius_norm(Q)
    Q *= np.float32(math.sqrt(squared_norm / squared_norm_hat)) if squared_norm_hat > 0.0 else np.float32(1.0)
    return Q
