"""Which file answers for which operator. A type that is not listed refuses."""

from __future__ import annotations

from export.operators import add, conv, conv_transpose, gemm, identity, matmul
from export.plan import Operator

OPERATORS: dict[str, Operator] = {
    "Add": add,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Dropout": identity,
    "Gemm": gemm,
    "Identity": identity,
    "MatMul": matmul,
}
