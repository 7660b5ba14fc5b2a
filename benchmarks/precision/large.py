"""Larger networks at 224 × 224, with weights that nobody trained: for times, sizes, and the noise of the arithmetic.

With the weights that a network begins with, BatchNormalization lets every Relu amplify each small difference, by 1.7 dB
a layer (Yang et al. 2019, arXiv:1902.08129). Rounding the input of MobileNetV2 alone to float16, 74 dB, then leaves
47 dB at its output, which says nothing of a conversion. Trained networks do not amplify so: their residual branches add
little to what passes by, as they do from the start where the last scale of a branch begins at zero (Goyal et al. 2017,
arXiv:1706.02677), and most values are on one side of a Relu. So the last scale of a branch is 0.25 here, and shifts
before a Relu are drawn about 0.5: 75 dB are left. Running statistics are those of standard normal rows, which the
networks are measured on.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.precision.digits import KEPT
from benchmarks.progress import show_progress

SHAPE, CLASSES = (3, 224, 224), 1000
STATISTICS_ROWS = 16
BRANCH_SCALE, SHIFT_MEAN, SHIFT_STD = 0.25, 0.5, 0.5


def written(network: str) -> Path:
    """Return the unfolded ONNX file of a network; it is written unless an earlier run did.

    Args:
        network: a registered architecture whose blocks have their branch in `residual`.
    """
    import torch

    from normfold.models.architectures.registry import Architecture, build
    from normfold.models.onnx.to_onnx import InputSpec, to_onnx

    path = KEPT / f"{network}.large.onnx"
    if not path.is_file():
        KEPT.mkdir(parents=True, exist_ok=True)
        show_progress(f"making {network}")
        torch.manual_seed(0)
        built = build(Architecture(name=network, input_shape=SHAPE, classes=CLASSES))
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
                torch.nn.init.normal_(module.bias, SHIFT_MEAN, SHIFT_STD)
        for module in built.modules():
            if isinstance(branch := getattr(module, "residual", None), torch.nn.Module):
                *_, last = (each for each in branch.modules() if isinstance(each, torch.nn.BatchNorm2d))
                torch.nn.init.zeros_(last.bias)
                if getattr(module, "has_shortcut", True):
                    torch.nn.init.constant_(last.weight, BRANCH_SCALE)
        with torch.no_grad():
            built.train()(torch.randn(STATISTICS_ROWS, *SHAPE))
        to_onnx(built.eval(), path, {"input": InputSpec(SHAPE)})
    return path
