"""What each kind of layer adds to the logit besides passing on its input: the bias terms of the decomposition.

Wherever a step y = s(x₁, x₂, …) is applied, the logit's gradients at its output and the pulled-back ones at its inputs
satisfy  ⟨g_y, y⟩ = Σᵢ ⟨gᵢ, xᵢ⟩ + term,  and summed over all steps the inner products telescope into
f = ⟨∇ₓf, x⟩ + Σ terms  (Srinivas & Fleuret 2019, proposition 4, extended from layers with biases to any step). A term
is zero for whatever is positively homogeneous of degree one: convolutions without bias, ReLU, pooling, sums. The rules
below are cases of it where the term is known in closed form, place by place; `general` is the definition itself.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import keras
from keras import layers, ops

from transforms.fullgrad import autodiff, operations
from transforms.fullgrad.autodiff import Gradients, Tap, Tensor
from transforms.fullgrad.flatten import CannotExpose, Step, Value
from transforms.fullgrad.located import Condensed, Located, Product, Read, together
from transforms.fullgrad.operations import Reading
from transforms.fullgrad.places import IMAGE, Grid, Place


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """factor · g ⊙ multiplier, with g the logit's gradient at a tapped tensor.

    Attributes:
      tensor: the tapped tensor.
      multiplier: of a shape that broadcasts to the tensor's; [C] is of every channel.
      factor: a number that is not 0.
      reaching: if not None, the multiplier counts as 0 where it is less.
      place: where in the image the tensor lies; None if nowhere.
    """

    tensor: Tensor
    multiplier: Tensor
    factor: float = 1.0
    reaching: float | None = None
    place: Place | None = None

    def unmultiplied(self, gradient_at: Callable[[Tensor], Tensor]) -> Product:
        """gradient ⊙ multiplier, without the factor; `gradient_at` gives a gradient in float32."""
        return Product(gradient_at(self.tensor), ops.cast(self.multiplier, "float32"), self.reaching)

    def product(self, gradients: Gradients) -> Tensor:
        product = self.unmultiplied(gradients.in_float32).tensor()
        return product if self.factor == 1.0 else product * self.factor


Found = TypeVar("Found", Located, Read)


@dataclasses.dataclass(frozen=True, slots=True)
class Contributions(Generic[Found]):
    """A term as parts that add up to it.

    Attributes:
      located: all of one resolution, each number at its place in the image.
      unlocated: [N, …], what has no place.
    """

    located: list[Found]
    unlocated: list[Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """What one step adds to the logit.

    Attributes:
      layer: the step's name.
      explicit: whether it is the term of a bias that the layer has (or, of BatchNorm, the effective one), as in the
        authors' implementation; the others are the paper's implicit biases.
      parts: their sum is the term.
      per_channel: whether the sum is meaningful at every channel; otherwise only summed over channels.
    """

    layer: str
    explicit: bool
    parts: tuple[Part, ...]
    per_channel: bool = True

    def contributions(self, gradients: Gradients) -> Contributions[Located]:
        """The term at its places, where those of all its parts agree."""
        if (whole := self.unmultiplied(gradients.in_float32)) is not None:
            return Contributions([whole], [])
        products = [part.product(gradients) for part in self.parts]
        if not self.per_channel:
            products = [ops.sum(p, axis=-1, keepdims=True) if len(p.shape) > 2 else p for p in products]
        if all(p.shape == products[0].shape for p in products):
            return _at_its_place(functools.reduce(operator.add, products), self.parts[0].place)
        placed = [_at_its_place(p, part.place) for p, part in zip(products, self.parts, strict=True)]
        located = [found for each in placed for found in each.located]
        if len(located) == len(products) and len({found.resolution for found in located}) == 1:
            return Contributions(located, [tensor for each in placed for tensor in each.unlocated])
        # The parts cancel each other only as a whole: at places of their own, each would show what is not there.
        return Contributions([], products)

    def unmultiplied(self, gradient_at: Callable[[Tensor], Tensor]) -> Located | None:
        """The term in one piece, where it is one of the few kinds that `operations` read without multiplying out.

        `gradient_at` gives the gradient at a tapped tensor, in float32.
        """
        first, *others = self.parts
        if any(part.place != IMAGE for part in self.parts) or not self.per_channel:
            return None
        if not others and len(first.multiplier.shape) == 1 and first.factor == 1.0:
            scales = ops.cast(first.multiplier, "float32")[None]
            return Located(Product(gradient_at(first.tensor)), scales=scales)
        shapes = {tuple(tensor.shape) for part in self.parts for tensor in (part.tensor, part.multiplier)}
        if len(shapes) > 1 or [part.factor for part in others] not in ([], [-first.factor]):
            return None
        less = others[0].unmultiplied(gradient_at) if others else None
        return Located(first.unmultiplied(gradient_at), less, first.factor)


@dataclasses.dataclass(frozen=True, slots=True)
class ReadTerm:
    """A term that is read where the gradient is made that it is a term of.

    Attributes:
      layer, explicit: as in a `Term`.
      tensor: where that gradient is; [N, …].
      condensed: what was read, of this term and those that are read with it; empty until gradients are taken, and where
        none comes back.
    """

    layer: str
    explicit: bool
    tensor: Tensor
    condensed: list[Condensed]

    def contributions(self, gradients: Gradients) -> Contributions[Read]:
        if not self.condensed:
            return Contributions([], [ops.zeros_like(self.tensor[:, 0, 0, 0])])
        return Contributions([Read(self.condensed[0])], [])


AnyTerm = Term | ReadTerm


def _at_its_place(tensor: Tensor, place: Place | None) -> Contributions[Located]:
    """A tensor [N, …] as what lies in the image and what does not."""
    if place is None:
        return Contributions([], [tensor])
    if not isinstance(place, Grid):
        return Contributions([Located(Product(tensor))], [])
    end = place.offset + place.size
    inside = ops.reshape(tensor[:, place.offset : end], (-1, place.height, place.width, tensor.shape[2]))
    others = [part for part in (tensor[:, : place.offset], tensor[:, end:]) if part.shape[1]]
    return Contributions([Located(Product(inside))], others)


Values = Mapping[Value, Tensor]


class Run:
    """One forward pass under way: the tap, the places of values, what `operations` read, and the terms met so far."""

    def __init__(
        self, tap: Tap, places: Mapping[Value, Place], reading: Reading | None = None, images: int | None = None
    ):
        """`images` says how many there are, where that is known: every term must then be told apart by them."""
        self._images = images
        self.terms: list[AnyTerm] = []
        self._tap = tap
        self._places = places
        self._reading = reading
        self._read: dict[int, list[_ReadTogether]] = {}  # by the ids of tensors that are tapped

    def tap(self, tensor: Tensor) -> Tensor:
        """The tensor as one of its own, at which terms can be added."""
        reading = self._reading
        if reading is None:
            return self._tap(tensor)
        groups: list[_ReadTogether] = []
        own = self._tap(tensor, lambda gradient: [read for each in groups for read in each.read(gradient, reading)])
        self._read[id(own)] = groups
        return own

    def add(self, step: Step, *parts: Part, explicit: bool = False, per_channel: bool = True, what: str = "") -> None:
        """Adds a term of `step`; its parts' places are filled in.

        Raises:
          CannotExpose: the term cannot be told apart by images.
        """
        if any(self._images not in (None, part.tensor.shape[0]) for part in parts):
            raise CannotExpose(
                f"layer {step.name!r} works on a tensor whose first axis is not the images', as of windows or patches "
                "of them all: put the operations from there back to one tensor an image into the call() of a layer of "
                "your own, which is then explained as one"
            )
        located = tuple(dataclasses.replace(part, place=self._place(step, part.tensor)) for part in parts)
        term = Term(step.name + what, explicit, located, per_channel)
        self.terms.append(self._read_where_it_is_made(term) or term)

    def _read_where_it_is_made(self, term: Term) -> ReadTerm | None:
        """The term as one that `operations` read of the one gradient that it is made of; None if it is no such one."""
        reading, tensor = self._reading, term.parts[0].tensor
        if reading is None or len(term.parts) > 1 or not (term.explicit or reading.implicit):
            return None
        located = term.unmultiplied(lambda tensor: tensor)
        if located is None:
            return None
        groups, last = self._read[id(tensor)], self.terms[-1] if self.terms else None
        # Biases of the same tensor are read at once, but neighbours alone: what is read is in the order of the terms.
        if not (groups and located.scales is not None and groups[-1].are_biases and last is groups[-1].last):
            groups.append(_ReadTogether([], [], are_biases=located.scales is not None))
        return groups[-1].add(term)

    def _place(self, step: Step, tensor: Tensor) -> Place | None:
        """Where a tensor lies: as the step's value of its rank, and of its length if it is a sequence."""
        rank = len(tensor.shape)
        for value in (*step.outputs, *step.inputs):
            if value in self._places and len(value.shape) == rank and (rank == 4 or value.shape[1] == tensor.shape[1]):
                return self._places[value]
        return None

    def add_activated(self, step: Step, biases: Sequence[tuple[Step, Tensor]], z: Tensor) -> Tensor:
        """Applies `step`, of which `activation_of` knows what it is, to z, and adds its term and those of z's biases.

        Args:
          biases: the biases that z has, float32 [C], at least one, each with the step that is named for its term.
          z: float32 [N, h, w, C]; it is not tapped, as all terms are read while the gradient goes back to it.

        Returns:
          The step's output.
        """
        activation, reading = activation_of(step), self._reading
        assert activation is not None
        assert reading is not None
        scales = ops.stack([bias for _, bias in biases])
        condensed: list[Condensed] = []

        def back(g: Tensor, y: Tensor) -> Tensor:
            g_z, read = operations.pass_back(activation, g, y, z, scales, reading)
            condensed.append(read)
            return g_z

        y = autodiff.pulled_back(z, keras.activations.relu6 if activation == "relu6" else keras.activations.silu, back)
        for owner, _ in biases:
            self.terms.append(ReadTerm(owner.name, True, y, condensed))
        self.terms.append(ReadTerm(step.name + _what(step.operation), False, y, condensed))
        return y


@dataclasses.dataclass(slots=True)
class _ReadTogether:
    """Terms that are read at once, of one gradient.

    Attributes:
      terms: them.
      condensed: what was read, once it was.
      are_biases: whether they are g ⊙ b with a b for every channel; there is one term if not.
      last: the last of them, as the run has it.
    """

    terms: list[Term]
    condensed: list[Condensed]
    are_biases: bool
    last: ReadTerm | None = None

    def add(self, term: Term) -> ReadTerm:
        self.terms.append(term)
        self.last = ReadTerm(term.layer, term.explicit, term.parts[0].tensor, self.condensed)
        return self.last

    def read(self, gradient: Tensor, reading: Reading) -> list[Tensor]:
        """Adds to the graph what reads them, and returns what that makes."""
        gradient = ops.cast(gradient, "float32")
        (located,) = together(filter(None, (term.unmultiplied(lambda _: gradient) for term in self.terms)))
        assert isinstance(located, Located)
        self.condensed.append(operations.condense(located, reading))
        return [self.condensed[0].map, self.condensed[0].totals]


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """How a step is treated.

    Attributes:
      adds: what it adds to the logit, in words; empty for nothing.
      apply: runs the step, adds its terms to the run, and returns its output.
      explicit: whether the step has an explicit bias term, which `biases: explicit` keeps.
    """

    adds: str
    apply: Callable[[Run, Step, Values], Any]
    explicit: bool = False


def rule_for(step: Step) -> Rule:
    """The rule for a step; total, since every step that is not known is treated by the general one.

    Raises:
      CannotExpose: the layer's data are laid out channels first.
    """
    operation = step.operation
    if getattr(operation, "data_format", None) == "channels_first":
        raise CannotExpose(
            f"layer {step.name!r} has data_format 'channels_first'; only 'channels_last' models can be explained"
        )
    if not type(operation).__module__.startswith("keras.") or step.trains:
        # A user's layer that could not be opened up: it may be derived from one of Keras' and do something else. Or a
        # layer in training mode, as a BatchNorm that goes by the batch's own statistics.
        return _GENERAL
    if isinstance(operation, _BIASED):
        return _biased_rule(operation, operation.activation)
    if isinstance(operation, layers.BatchNormalization):
        return Rule("effective bias β − γ·μ/√(σ² + ε)", _batch_normalization, explicit=True)
    if isinstance(operation, layers.Rescaling | layers.Normalization):
        return Rule("constant offset", _shift)
    if isinstance(operation, layers.Activation):
        return _activation_rule(operation.activation)
    if _is_relu6(operation):
        return Rule(f"implicit bias of {step.kind}", _relu6_step)
    if (function := _ELEMENTWISE.get(_kind(operation))) is not None and function(operation):
        return Rule(f"implicit bias of {step.kind}", _elementwise)
    if _is_linear(step):
        return _LINEAR
    if _kind(operation) in _PRODUCTS:
        return Rule("product of activations, −g ⊙ y", _product)
    if _kind(operation) in _SHIFTS and _single_input(step):
        return Rule("added constant", _shift)
    return _GENERAL


# ---- linear and piecewise linear through zero: nothing is added


def _call(run: Run, step: Step, values: Values) -> Any:
    return step.call(values)


_LINEAR = Rule("", _call)


# ---- layers with a bias, and activations fused into them

_BIASED = (
    layers.Dense,
    layers.EinsumDense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)


def _biased_rule(layer: keras.Layer, activation: Any) -> Rule:
    """g_z ⊙ b at the output z before the activation, then the activation's own term."""
    has_bias = getattr(layer, "bias", None) is not None
    of_activation = _activation_rule(activation)
    if not has_bias and not of_activation.adds and activation is layer.activation:
        return _LINEAR

    def apply(run: Run, step: Step, values: Values) -> Tensor:
        z = without_activation(step).call(values)
        if has_bias:
            z = run.tap(z)
            run.add(step, Part(z, ops.convert_to_tensor(layer.bias)), explicit=True)
        return _activate(run, step, activation, z)

    return Rule(", ".join(filter(None, ["bias" if has_bias else "", of_activation.adds])), apply, explicit=has_bias)


def without_activation(step: Step) -> Step:
    """The step with its layer's output before the fused activation.

    The layer itself stays as it is, since other threads may be calling it: a copy has its variables and no activation.
    """
    layer = step.operation
    copy = object.__new__(type(layer))
    vars(copy).update(vars(layer), activation=keras.activations.linear)
    return dataclasses.replace(step, operation=copy)


def _batch_normalization(run: Run, step: Step, values: Values) -> Tensor:
    y = run.tap(step.call(values))
    _, bias = effective_scale_and_bias(step.operation)
    axis, rank = step.operation.axis % len(y.shape), len(y.shape)
    if axis != rank - 1:
        bias = ops.reshape(bias, [-1 if i == axis else 1 for i in range(rank)])
    run.add(step, Part(y, bias), explicit=True)
    return y


def effective_scale_and_bias(layer: layers.BatchNormalization) -> tuple[Tensor, Tensor]:
    """What the layer does in inference, x ↦ scale·x + bias: γ/√(σ² + ε) and β − γ·μ/√(σ² + ε), float32 [C]."""
    scale = ops.rsqrt(ops.cast(layer.moving_variance, "float32") + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * ops.cast(layer.gamma, "float32")
    bias = -ops.cast(layer.moving_mean, "float32") * scale
    if layer.beta is not None:
        bias = bias + ops.cast(layer.beta, "float32")
    return scale, bias


# ---- activations: g_y ⊙ y − g_z ⊙ z, with g_z the activation's own pull-back of g_y

# Positively homogeneous of degree one, so that Euler's relation makes the term zero.
_HOMOGENEOUS = (keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)
_ONE_BY_ONE = tuple(
    getattr(keras.activations, name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_swish hard_tanh log_sigmoid mish relu6 selu "
        "sigmoid silu soft_shrink softplus softsign sparse_plus squareplus swish tanh tanh_shrink threshold"
    ).split()
    if hasattr(keras.activations, name)
)


def _activation_rule(activation: Any) -> Rule:
    if activation is None or activation in _HOMOGENEOUS:
        return _LINEAR
    if isinstance(activation, keras.Layer):  # a layer object given as the activation
        return _LINEAR if _is_homogeneous_layer(activation) else Rule(_implicit(activation), _activation_layer)
    return Rule(_implicit(activation), _activation_layer)


def _implicit(activation: Any) -> str:
    return f"implicit bias of {getattr(activation, '__name__', None) or type(activation).__name__}"


def _what(operation: Any) -> str:
    """What the term of a layer's activation is called, behind the layer's name; empty for other operations."""
    activation = getattr(operation, "activation", None)
    return "" if activation is None else f" ({_implicit(activation)})"


def _activation_layer(run: Run, step: Step, values: Values) -> Tensor:
    (z,) = (values[value] for value in step.inputs)
    return _activate(run, step, step.operation.activation, z)


def _activate(run: Run, step: Step, activation: Any, z: Tensor) -> Tensor:
    if not _activation_rule(activation).adds:
        return z if activation is None else activation(z)
    what = _what(step.operation)
    if activation is keras.activations.relu6:
        return _relu6(run, step, z, what)
    z = run.tap(z)
    y = run.tap(autodiff.silu(z) if activation is keras.activations.silu else activation(z))
    # A function that is not known to act on each element alone (softmax, a user's own) is exact only over channels.
    one_by_one = any(activation is known for known in _ONE_BY_ONE)
    run.add(step, Part(y, y), Part(z, z, -1.0), per_channel=one_by_one, what=what)
    return y


def _relu6(run: Run, step: Step, z: Tensor, what: str = "") -> Tensor:
    """g_y ⊙ y − g_z ⊙ z is g_y ⊙ 6 where y = 6, and 0 elsewhere: z need not be kept, nor its gradient be known."""
    y = run.tap(keras.activations.relu6(z))
    run.add(step, Part(y, y, reaching=6.0), what=what)
    return y


def activation_of(step: Step) -> Literal["relu6", "silu"] | None:
    """Which of the activations that `operations` know a step is, and nothing else; None for any other step."""
    function = step.operation.activation if type(step.operation) is layers.Activation else None
    if _is_relu6(step.operation) or function is keras.activations.relu6:
        return "relu6"
    return "silu" if function is keras.activations.silu or _kind(step.operation) == "ops.Silu" else None


def _elementwise(run: Run, step: Step, values: Values) -> Tensor:
    return _euler(run, step, values, per_channel=True)


def _relu6_step(run: Run, step: Step, values: Values) -> Tensor:
    return _relu6(run, step, values[step.inputs[0]])


# ---- the probabilities at the end: undone, since what is explained is the logit before them


def squashing(step: Step) -> str | None:
    """`softmax` or `sigmoid` where that is what the step ends in, fused into a layer or alone; otherwise None."""
    kind = _kind(step.operation)
    if kind in ("layers.Softmax", "ops.Softmax", "ops.Sigmoid"):
        return step.kind.lower()
    activation = getattr(step.operation, "activation", None)
    return next((name for name in ("softmax", "sigmoid") if activation is getattr(keras.activations, name)), None)


def rule_without_squashing(step: Step) -> Rule:
    """The rule for a step of which `squashing` is undone."""
    if isinstance(step.operation, _BIASED):
        return _biased_rule(step.operation, None)
    return Rule("", lambda run, step, values: values[step.inputs[0]])


def ends_linearly(step: Step) -> bool:
    """Whether a step is a layer with weights and without an activation."""
    return isinstance(step.operation, _BIASED) and step.operation.activation in (None, keras.activations.linear)


def only_moves(step: Step) -> bool:
    """Whether a step leaves its one input's numbers as they are, in another shape or type at most."""
    return step.kind in ("Reshape", "Flatten", "Identity", "Dropout", "Cast", "Squeeze", "Permute", "Copy") or (
        isinstance(step.operation, layers.Activation) and step.operation.activation is keras.activations.linear
    )


# ---- arithmetic


def _product(run: Run, step: Step, values: Values) -> Tensor:
    """A product of n activations is homogeneous of degree n: the term is −(n − 1) · g_y ⊙ y."""
    y = run.tap(step.call(values))
    run.add(step, Part(y, y, 1.0 - len(step.inputs)))
    return y


def _shift(run: Run, step: Step, values: Values) -> Tensor:
    """An affine step y = Ax + c: the term is g_y ⊙ c, and c is what the step makes of x = 0."""
    y = run.tap(step.call(values))
    zeros = {value: ops.zeros_like(values[value][:1]) for value in step.inputs}  # c is the same for every image
    run.add(step, Part(y, step.call(zeros)))
    return y


# ---- whatever else


def _general(run: Run, step: Step, values: Values) -> Any:
    return _euler(run, step, values, per_channel=False)


_GENERAL = Rule("general: Σ g_y·y − Σ g_x·x", _general)


def _euler(run: Run, step: Step, values: Values, *, per_channel: bool) -> Any:
    """Σ g_y·y − Σ g_x·x, with g_x pulled back through this step alone (each input is tapped for it)."""
    floating = [value for value in step.inputs if "float" in value.dtype]
    inputs = {value: run.tap(values[value]) for value in dict.fromkeys(floating)}
    outputs = keras.tree.map_structure(
        lambda y: run.tap(y) if "float" in keras.backend.standardize_dtype(y.dtype) else y,
        step.call({**values, **inputs}),
    )
    tapped = [y for y in keras.tree.flatten(outputs) if "float" in keras.backend.standardize_dtype(y.dtype)]
    run.add(
        step,
        *(Part(y, y) for y in tapped),
        *(Part(x, x, -1.0) for x in inputs.values()),
        per_channel=per_channel,
    )
    return outputs


# ---- which is which


def _kind(operation: keras.Operation) -> str:
    """`layers.Add` for a layer, `ops.Add` for a bare operation (keras.ops and keras.activations)."""
    module = type(operation).__module__
    if not module.startswith("keras."):
        return ""
    return f"{'layers' if isinstance(operation, keras.Layer) else 'ops'}.{type(operation).__name__}"


def _single_input(step: Step) -> bool:
    return len(step.inputs) == 1


def _is_homogeneous_layer(layer: keras.Layer) -> bool:
    if isinstance(layer, layers.ReLU):
        return layer.max_value is None and not layer.threshold
    return isinstance(layer, layers.LeakyReLU | layers.PReLU)


def _clipped(operation: Any) -> bool:
    """Whether a ReLU is clipped above or thresholded away from zero, so that it is not homogeneous."""
    return getattr(operation, "max_value", None) is not None or bool(getattr(operation, "threshold", 0))


def _is_relu6(operation: Any) -> bool:
    """Whether Keras computes it as ReLU6, of which the gradient at 6 is 0; a clip's is 1."""
    if _kind(operation) == "ops.Relu6":
        return True
    slope, threshold = getattr(operation, "negative_slope", 0), getattr(operation, "threshold", 0)
    return _kind(operation) in ("layers.ReLU", "ops.ReLU") and operation.max_value == 6 and not slope and not threshold


def _always(operation: Any) -> bool:
    return True


# Element by element, with a term unless the condition says otherwise.
_ELEMENTWISE: dict[str, Callable[[Any], bool]] = {
    "layers.ReLU": _clipped,
    "ops.ReLU": _clipped,
    **dict.fromkeys(
        (
            "layers.ELU",
            *(
                f"ops.{name}"
                for name in (
                    "Celu Clip Elu Erf Exp Expm1 Gelu HardShrink HardSigmoid HardSilu HardTanh Log Log1p LogSigmoid "
                    "Mish Power Reciprocal Relu6 Rsqrt Selu Sigmoid Silu SoftShrink Softplus Softsign SparsePlus Sqrt "
                    "Square Squareplus Tanh TanhShrink Threshold"
                ).split()
            ),
        ),
        _always,
    ),
}

_LINEAR_LAYERS = frozenset(
    (
        "ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D AveragePooling3D "
        "CenterCrop Concatenate Cropping1D Cropping2D Cropping3D Dropout Flatten GaussianDropout "
        "GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
        "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D Identity LeakyReLU MaxPooling1D "
        "MaxPooling2D MaxPooling3D Maximum Minimum PReLU Permute ReLU RepeatVector Reshape Resizing "
        "SpatialDropout1D SpatialDropout2D SpatialDropout3D Subtract UpSampling1D UpSampling2D UpSampling3D "
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D"
    ).split()
)
# Linear or homogeneous in the tensors they are given, whatever those are.
_LINEAR_OPERATIONS = frozenset(
    (
        "Abs Absolute Amax Amin AveragePool BroadcastTo Cast Concatenate Copy ExpandDims Flatten Flip GetItem "
        "Identity LeakyRelu Max MaxPool Mean Moveaxis Negative ReLU Relu Repeat Reshape Resize Roll Split "
        "Squeeze Stack Sum Swapaxes Take TakeAlongAxis Tile Transpose Unstack"
    ).split()
)
# Linear in one tensor that depends on the image, the other being a constant; homogeneous of degree one in two only
# where they are added.
_BILINEAR = frozenset({"ops.Multiply", "ops.Matmul", "ops.Dot", "ops.Einsum", "ops.Conv", "ops.DepthwiseConv"})
_SUMS = frozenset({"ops.Add", "ops.Subtract", "ops.Maximum", "ops.Minimum"})
_SHIFTS = frozenset({"ops.Add", "ops.Subtract", "layers.Add", "layers.Subtract"})
_PRODUCTS = frozenset({"layers.Multiply", "layers.Dot"}) | _BILINEAR


def _is_linear(step: Step) -> bool:
    operation, kind = step.operation, _kind(step.operation)
    name = kind.partition(".")[2]
    if kind.startswith("layers."):
        if name in ("Add", "Subtract", "Maximum", "Minimum", "Average", "Concatenate") and _constants(step):
            return False
        return name in _LINEAR_LAYERS and not (name == "Resizing" and operation.pad_to_aspect_ratio)
    if kind in _SUMS or name in ("Concatenate", "Stack"):
        return not _constants(step)
    if kind in _BILINEAR:
        return _single_input(step)
    if kind in ("ops.Divide", "ops.TrueDivide"):
        return _single_input(step) and isinstance(step.args[0], Value)
    return kind.startswith("ops.") and name in _LINEAR_OPERATIONS


def _constants(step: Step) -> bool:
    """Whether one of the operands does not depend on the image: a number, an array or a variable."""
    operands = step.args if len(step.args) > 1 else keras.tree.flatten(step.args)
    return any(not isinstance(operand, Value) for operand in keras.tree.flatten(operands))
