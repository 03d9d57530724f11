"""What every component of a network is: stored fields declared once, forward and backward computation, configuration.

A component is a small class in the file of its family. It declares its fields (what a model file stores, in Kaldi's
order and under Kaldi's tokens); reading, writing (Kaldi binary and text, HDF5), averaging, scaling, comparing and the
parameter count all follow from that one declaration. Registering is part of defining the class: adding a component
means adding a class and nothing elsewhere.

Activations are time-major: for ``T`` times and ``N`` sequences a float32 array of shape ``(T * N, dim)``, row
``time_index * N + sequence``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from nnet3py.errors import UserError

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine

Array = np.ndarray
Random = np.random.Generator | None


class Kind(enum.Enum):
    """How a field is encoded (Kaldi src/base/io-funcs.h and the matrix classes)."""

    FLOAT = "float"
    DOUBLE = "double"
    INT = "int"
    BOOL = "bool"
    INT_VECTOR = "int vector"  # list[int]
    MATRIX = "matrix"  # float32 (rows, columns)
    VECTOR = "vector"  # float32 (dim,)
    AVERAGE = "average"  # a float64 sum in memory, its average over ``count`` on disk
    RMS = "rms"  # a float64 sum of squares in memory, its root mean square over ``count`` on disk
    VARIANCE = "variance"  # a float64 sum of squares in memory, on disk the variance about the average of ``mean``
    FLOAT_PAIR = "float pair"  # tuple of two numbers behind one token
    INT_PAIR = "int pair"
    FLAG = "flag"  # the token's presence says true


class Role(enum.Enum):
    """What happens to a field when models are added, scaled or trained."""

    SETTING = "setting"  # copied
    PARAMETER = "parameter"  # trained; added and scaled
    STATISTIC = "statistic"  # accumulated, not trained; added and scaled


@dataclass(frozen=True)
class OldForm:
    """Another way in which old files have a field: its token and encoding, and what makes today's value of it.

    With the field's own token it is told from today's form by the first byte, which only binary files have.
    """

    token: str
    kind: Kind
    convert: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Field:
    """One stored field: its token in Kaldi's files, the attribute that holds it, its encoding and role.

    A field with a ``default`` may be absent from a file and then has that value (``()``: an array without numbers); it
    is written only when it differs from the default (``always`` says otherwise); ``default_from`` names the attribute
    whose value is the default (a block-dim that is the dim unless said). ``count`` names the attribute that normalises
    AVERAGE, RMS and VARIANCE (it may come later in the file than what it normalises: undo the normalisation when all is
    read; with a count of zero the sums are zero, whatever the file has), ``mean`` the attribute with the sum whose
    average is the mean of a VARIANCE. ``old_forms`` are other ways in which old files have the field. An ``obsolete``
    field is one that old files may have: it is read, never written, and dropped unless it has an attribute, which then
    takes its value.
    """

    token: str
    attribute: str
    kind: Kind
    role: Role = Role.SETTING
    default: Any = None
    always: bool = False
    count: str = ""
    default_from: str = ""
    mean: str = ""
    old_forms: tuple[OldForm, ...] = ()
    obsolete: bool = False

    @property
    def optional(self) -> bool:
        """Whether the token may be absent from a file."""
        return self.default is not None or bool(self.default_from) or self.obsolete


UPDATABLE_FIELDS: tuple[Field, ...] = (
    Field("<LearningRateFactor>", "learning_rate_factor", Kind.FLOAT, default=1.0),
    Field("<IsGradient>", "is_gradient", Kind.BOOL, default=False),
    Field("<MaxChange>", "max_change", Kind.FLOAT, default=0.0),
    Field("<L2Regularize>", "l2_regularize", Kind.FLOAT, default=0.0),
    Field("<LearningRate>", "learning_rate", Kind.FLOAT, default=0.001, always=True),
)
"""What every trained component stores first (Kaldi ``UpdatableComponent::WriteUpdatableCommon``)."""


@dataclass(frozen=True)
class NaturalGradientOptions:
    """Settings of the two preconditioners of a component's update (arXiv:1410.7455, section 4 and appendix B)."""

    rank_in: int = 20
    rank_out: int = 80
    alpha: float = 4.0
    update_period: int = 4
    num_samples_history: float = 2000.0
    alpha_out: float | None = None
    """Smoothing of the output side where it differs from ``alpha`` (TdnnComponent stores two)."""

    def check(self, where: str) -> None:
        """Raise UserError, naming ``where``, if a value is one that a damaged file may have and no model has."""
        alphas = (self.alpha, self.alpha if self.alpha_out is None else self.alpha_out)
        counts = (self.rank_in, self.rank_out, self.update_period)
        if min(counts) <= 0 or not min(alphas) > 0.0 or not self.num_samples_history > 0.0:
            raise UserError(
                f"{where}: ranks {self.rank_in} and {self.rank_out}, update period {self.update_period}, alpha "
                f"{self.alpha:g} and samples of history {self.num_samples_history:g} must all be above zero."
            )


class Phase(enum.Enum):
    """TRAIN uses minibatch statistics and dropout; TEST uses stored statistics and no dropout."""

    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True)
class Layout:
    """The rows a component sees: ``input_times`` x ``num_sequences`` in, ``output_times`` x ``num_sequences`` out."""

    input_times: Sequence[int]
    output_times: Sequence[int]
    num_sequences: int


class Update(Protocol):
    """Where a component's backward pass leaves its parameter change; the trainer provides it (nnet3py.train).

    ``delta`` has one float32 array per PARAMETER field, in the parameter's shape, to which the change is added (the
    change in the direction of a *larger* objective, learning rate included).
    """

    learning_rate: float
    delta: dict[str, Array]

    def add_outer_product(self, dy: Array, x: Array, linear: str, bias: str | None) -> None:
        """Add ``learning_rate * dyᵀ [x 1]``, each side preconditioned as the training method says.

        Args: dy (rows, output dim) and x (rows, input dim) float32; names of the PARAMETER fields of shape
        (output dim, input dim) and (output dim,), the latter None for a component without a bias.
        """

    def add_gradient(self, gradient: Array, bias_gradient: Array, linear: str, bias: str) -> None:
        """Add ``learning_rate`` times a minibatch's gradient, preconditioned by the estimate for inputs alone.

        The rows of [gradient bias_gradient], (output dim, input dim + 1), take the place of a minibatch's inputs.
        """

    def add_vector(self, field: str, rows: Array) -> None:
        """Add ``learning_rate`` times the sum over rows of ``rows`` (rows, dim), preconditioned, to a vector field.

        Each vector field of a component has its own preconditioner, of rank ``rank_in``. ``rows`` may be overwritten.
        """


class Component:
    """Base of all components. Subclasses set ``type_name``, by which the network finds them, and ``fields``."""

    type_name: ClassVar[str] = ""
    fields: ClassVar[tuple[Field, ...]] = ()
    updatable: ClassVar[bool] = False

    update_sees_all_nodes: ClassVar[bool] = True
    """Whether the rows of all nodes that use the component make one update; false for what sees times."""

    learning_rate: float = 0.001
    learning_rate_factor: float = 1.0
    max_change: float = 0.0
    l2_regularize: float = 0.0
    is_gradient: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__dict__.get("type_name"):
            REGISTRY[cls.type_name] = cls

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> Component:
        """Build from the values of a ``component`` configuration line; ``random`` draws initial parameters.

        The caller calls ``config.finish()``, so that a key which no component asked for is an error.
        Raises UserError for a missing or impossible value.
        """
        raise NotImplementedError

    @property
    def input_dim(self) -> int:
        """Columns of the input."""
        raise NotImplementedError

    @property
    def output_dim(self) -> int:
        """Columns of the output."""
        raise NotImplementedError

    @property
    def natural_gradient(self) -> NaturalGradientOptions | None:
        """How updates are preconditioned as the model file says; None is plain SGD."""
        return None

    def check(self) -> None:
        """Raise UserError if the fields, just read from a file, do not fit together."""

    def input_times(self, output_times: Sequence[int]) -> list[int]:
        """The input times that the output at ``output_times`` is computed from (most components: the same)."""
        return list(output_times)

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        """Output (rows, output_dim) for input ``x`` (rows, input_dim), and a memo that :meth:`backprop` needs.

        ``x`` is not changed; the output may be ``x`` itself. ``random`` is the generator of a training pass: dropout
        masks come from it, and the draws that say on which minibatches a nonlinearity looks at its derivatives.
        """
        raise NotImplementedError

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        """Derivative with respect to the input for ``dy`` with respect to the output; the update goes to ``update``.

        ``dy`` may be overwritten, and returned. Returns None when ``want_dx`` is false.
        """
        raise NotImplementedError

    def accumulate_statistics(self, memo: Any) -> None:
        """Add this minibatch's activation statistics to the STATISTIC fields (training with stored statistics)."""

    def zero_statistics(self) -> None:
        """Forget accumulated STATISTIC fields (Kaldi ``ZeroStats``)."""
        for field in self.fields_with_role(Role.STATISTIC):
            value = getattr(self, field.attribute)
            setattr(self, field.attribute, np.zeros_like(value) if isinstance(value, np.ndarray) else type(value)(0))

    def has_finite_statistics(self) -> bool:
        """Whether all STATISTIC fields are finite."""
        statistics = (getattr(self, field.attribute) for field in self.fields_with_role(Role.STATISTIC))
        return all(bool(np.isfinite(value).all()) for value in statistics)

    @classmethod
    def fields_with_role(cls, role: Role) -> list[Field]:
        """The declared fields of one role, in file order."""
        return [field for field in cls.fields if field.role is role]

    def parameters(self) -> dict[str, Array]:
        """Trained arrays by attribute name, in file order: the arrays themselves, not copies."""
        return {field.attribute: getattr(self, field.attribute) for field in self.fields_with_role(Role.PARAMETER)}

    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(array.size for array in self.parameters().values())

    def info(self) -> str:
        """One line for ``nnet-info``, in the wording of Kaldi's ``Info()``."""
        return f"{self.type_name}, input-dim={self.input_dim}, output-dim={self.output_dim}"


class UpdatableComponent(Component):
    """A component with trained parameters; ``fields`` of a subclass begin with :data:`UPDATABLE_FIELDS`."""

    updatable = True

    def check(self) -> None:
        """Raise UserError for settings of the natural gradient out of range."""
        if self.natural_gradient is not None:
            self.natural_gradient.check(self.type_name)

    def read_learning_rates(self, config: ConfigLine) -> None:
        """Set what all trained components can be told (Kaldi ``InitLearningRatesFromConfig``)."""
        self.learning_rate = config.number("learning-rate", 0.001)
        self.learning_rate_factor = config.number("learning-rate-factor", 1.0)
        self.max_change = config.number("max-change", 0.0)
        self.l2_regularize = config.number("l2-regularize", 0.0)
        for key in ("learning-rate", "learning-rate-factor", "max-change", "l2-regularize"):
            if config.number(key, 0.0) < 0.0:
                raise config.error(f"{key} must not be negative")

    def info(self) -> str:
        """Kaldi ``UpdatableComponent::Info``: dimensions and what the learning rate is."""
        text = f"{super().info()}, learning-rate={self.learning_rate:g}"
        if self.is_gradient:
            text += ", is-gradient=true"
        if self.l2_regularize != 0.0:
            text += f", l2-regularize={self.l2_regularize:g}"
        if self.learning_rate_factor != 1.0:
            text += f", learning-rate-factor={self.learning_rate_factor:g}"
        if self.max_change > 0.0:
            text += f", max-change={self.max_change:g}"
        return text


REGISTRY: dict[str, type[Component]] = {}
"""The component classes that have been defined, by type name; :mod:`nnet3py.nnet.families` defines them all."""
