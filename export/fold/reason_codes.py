"""Reason codes of folds that are not done, each with a description for people."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum


class ReasonCode(StrEnum):
    """A reason for which a fold is not done; `description` says when it occurs and what a user can do."""

    description: str

    def __new__(cls, code: str, description: str) -> ReasonCode:
        """Make a member of a code and its description."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.description = member.__doc__ = description
        return member

    # The BatchNormalization itself
    PARAMETER_NOT_CONSTANT = (
        "parameter-not-constant",
        "`scale`, `shift`, `running_mean` or `running_var` is computed, or is an initializer that is also an input, "
        "which a caller may override. `normfold fold --freeze-inputs` makes such defaults constants.",
    )
    PARAMETER_MISMATCH = (
        "parameter-mismatch",
        "The four parameters differ in length, so the node cannot run. Correct the file.",
    )
    STATISTICS_NOT_FINITE = (
        "statistics-not-finite",
        "The parameters give a gain or offset that is NaN or infinite. `normfold audit` names the channels; train or "
        "recalibrate the layer again.",
    )
    NOT_SPATIAL = (
        "not-spatial",
        "The node has spatial=0 (until opset 8): statistics for every position, not for every channel, as far as its "
        "parameters show. Export with a newer opset.",
    )
    FURTHER_OUTPUTS = (
        "further-outputs",
        "Another node reads the mean or variance that the node returns. Export for inference, with one output.",
    )
    SUBGRAPH = (
        "subgraph",
        "The affine would cross the border of the body of an If, Loop or Scan: a value on the path is read in such a "
        "body, or comes from outside of it. Export without the control flow, if the network allows it.",
    )
    UNREAD = (
        "unread",
        "Nothing reads the node's output, so the node was removed. No action is needed.",
    )

    # The place in the graph
    GRAPH_INPUT = (
        "graph-input",
        "The node reads an input of the graph or an initializer: no operator before it can absorb the affine. If the "
        "caller standardises the input, nothing is lost.",
    )
    GRAPH_OUTPUT = (
        "graph-output",
        "A value that would change is an output of the graph, which must not change. Remove the output if no caller "
        "reads it.",
    )
    OTHER_READERS = (
        "other-readers",
        "A value that would change is also read by another node, as in DenseNet's concatenations. This follows from "
        "the network's architecture.",
    )
    CONFLICT = (
        "conflict",
        "Two paths need two different affines on the same value. This follows from the network's architecture.",
    )
    COST = (
        "cost",
        "The readers could absorb the affine, but their constants would grow by more bytes than the node moves. "
        "Smaller fixed spatial sizes may change this.",
    )
    OVERFLOW = (
        "overflow",
        "A constant of the folded network would exceed the range of its type, which ends at 65504 for float16. Fold a "
        "float16 network in float32, then convert it.",
    )

    # Operators that no affine passes
    OPERATOR = (
        "operator",
        "The affine can neither pass the operator nor be absorbed by it, or the operator is not known to the fold. A "
        "node on the other side may still absorb it.",
    )
    NON_LINEAR = (
        "non-linear",
        "The operator is not linear in its input: an activation that an offset would change, a recurrent layer, a "
        "normalisation by statistics of its input, a Cast to or from integers. This follows from the network's "
        "architecture.",
    )
    GAIN_SIGN = (
        "gain-sign",
        "A negative gain does not pass a maximum, a minimum, a norm or a rectifier. A gain of zero does not pass where "
        "the indices of a maximum are read, or a constant is infinite. This depends on the trained parameters.",
    )
    TRAINING_MODE = (
        "training-mode",
        "The BatchNormalization normalises by the batch, or a Dropout on the path may drop values: training_mode is "
        "true or computed, or (until opset 13) the node has further outputs. Export in evaluation mode.",
    )
    RECIPROCAL = (
        "reciprocal",
        "The operator divides by the value. This follows from the network's architecture.",
    )
    PRODUCT = (
        "product",
        "The operator multiplies two activations, and neither factor can absorb the gain. This follows from the "
        "network's architecture.",
    )
    PRODUCT_OFFSET = (
        "product-offset",
        "The operator multiplies two activations: a gain passes, an offset does not. This follows from the network's "
        "architecture.",
    )
    NO_BIAS = (
        "no-bias",
        "A MatMul or Einsum has no bias for the offset and cannot become a Gemm, or multiplies two activations. Export "
        "the layer as Linear on a matrix, or with a bias.",
    )
    UNEQUAL_GAINS = (
        "unequal-gains",
        "The branches of a sum would arrive with different gains, or those of a Where, Max or Min with different "
        "affines. This follows from the network's architecture.",
    )
    TWO_BRANCHES = (
        "two-branches",
        "The branches of a sum, product, Where, Max or Min differ in shape, or their shapes are not known. Export with "
        "shapes that inference can find.",
    )
    REPEATED = (
        "repeated",
        "A Gather reads an element twice, and the two copies have different affines. This follows from the network's "
        "architecture.",
    )
    BLOCK_NOT_UNIFORM = (
        "block-not-uniform",
        "DepthToSpace or SpaceToDepth combines channels with different affines. This depends on the trained "
        "parameters.",
    )
    ZERO_GAIN = (
        "zero-gain",
        "The fold would divide by a gain or factor of zero, or close to it. This depends on the trained parameters: "
        "the channel is dead.",
    )

    # Borders
    ZERO_PADDING = (
        "zero-padding",
        "A convolution or pool pads with zeros, or RoiAlign or GridSample reads zeros beyond the border, where the "
        "offset would be missing, and no constant after it can absorb the difference. If sizes are not fixed, fixing "
        "them may help.",
    )
    UNEVEN_TAPS = (
        "uneven-taps",
        "The output positions of a ConvTranspose use different kernel taps, so the offset would not be the same "
        "everywhere. This follows from the network's architecture.",
    )
    PADDING_NOT_UNIFORM = (
        "padding-not-uniform",
        "A Pad or ConstantOfShape fills all channels with one constant, but each channel would need a different one. "
        "This follows from the network's architecture.",
    )
    PADDED_AXIS = (
        "padded-axis",
        "The affine varies along an axis that a Pad enlarges. This follows from the network's architecture.",
    )
    EXTRAPOLATION = (
        "extrapolation",
        "A Resize by tf_crop_and_resize fills the area outside the input with a constant. Use another coordinate mode.",
    )

    # Shapes
    NOT_PER_CHANNEL = (
        "not-per-channel",
        "The affine is not one gain and offset for each channel of the operator that would absorb it. This follows "
        "from the network's architecture.",
    )
    MIXED_AXES = (
        "mixed-axes",
        "A Reshape joins the channels with an axis of unknown size. Export with that size fixed.",
    )
    UNKNOWN_SHAPE = (
        "unknown-shape",
        "Shape inference does not find a shape or dtype that is needed. Export with fixed sizes, apart from the batch.",
    )
    BROADCAST = (
        "broadcast",
        "A constant enlarges the other operand, or that operand's shape is not known. Export with known shapes.",
    )
    EXPANDED = (
        "expanded",
        "The affine varies along an axis that an Expand or Tile enlarges. This follows from the network's "
        "architecture.",
    )
    REDUCED_AXIS = (
        "reduced-axis",
        "The affine varies along an axis that is reduced to one value. This follows from the network's architecture.",
    )
    RESIZED_AXIS = (
        "resized-axis",
        "The affine varies along an axis that a Resize scales. This follows from the network's architecture.",
    )
    WEIGHT_RANK = (
        "weight-rank",
        "The constant factor of a MatMul is not a matrix, which follows from the architecture; or the bias of a "
        "convolution is not a vector, which runtimes do not run.",
    )
    INVALID_GROUP = (
        "invalid-group",
        "The groups of a convolution do not divide its channels, so the node cannot run. Correct the file.",
    )

    # What must be constant
    WEIGHTS_NOT_CONSTANT = (
        "weights-not-constant",
        "A weight or bias is computed, or is an initializer that is also an input. `normfold fold --freeze-inputs` "
        "makes such defaults constants.",
    )
    QUANTIZED_WEIGHT = (
        "quantized-weight",
        "The weight is integers behind a DequantizeLinear, which cannot take the gain exactly: it is zero, negative "
        "where the integers have no negation, or varies where there is one scale; or a scale would leave the normal "
        "numbers of its type. Fold the network first, then quantise it.",
    )
    INDICES = (
        "indices",
        "The value is read as indices, sizes or pads, or the operator returns indices. This follows from the "
        "network's architecture.",
    )
    COMPUTED_INDICES = (
        "computed-indices",
        "A Slice or Gather selects elements by indices that are not constant, along an axis on which the affine "
        "varies. Export with constant indices.",
    )
    COMPUTED_AXES = (
        "computed-axes",
        "A reduction has axes that are not constant. Export with constant axes.",
    )
    COMPUTED_PADS = (
        "computed-pads",
        "A Pad has pads that are not constant. Export with constant pads.",
    )


def reason_codes() -> Iterator[tuple[str, str]]:
    """Yield each reason code and its description, in the order of their definition."""
    for code in ReasonCode:
        yield code.value, code.description
