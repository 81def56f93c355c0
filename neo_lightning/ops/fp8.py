"""Products of matrices in 8-bit floats (e4m3: 3 bits of mantissa, 448 at most), every row with a scale of its own.

    a [M, K] = s_a * A      b [N, K] = s_b * B      A, B rounded to e4m3; s_a [M, 1], s_b [N, 1] float32
    a b^T  =  (A B^T) * s_a * s_b^T                 summed in float32

A row's scale lets its largest magnitude meet 448. So an outlier costs no other token or channel its precision, and
there is no history of magnitudes that a checkpoint would have to hold. Rounding errs by up to 1/16 of an element; a
product of random matrices is off by about 4% (root mean square).

GPUs have units for this from compute capability 8.9 on (H100: 9.0), with twice the peak of bfloat16. On a CPU the same
is computed slowly, so that what it does to a model can be seen anywhere; torch 2.11 cannot do that yet.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import ScalingType

STEP = 16
"""The units take widths in multiples of this."""
LARGEST = torch.finfo(torch.float8_e4m3fn).max
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def why_not(device: torch.device) -> str:
    """What keeps a device from 8-bit products; empty where nothing does."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        return f"{torch.cuda.get_device_name(device)} has no units for 8-bit floats (8.9 and later have)"
    if device.type == "cpu" and not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_scaled_mm_v2", "CPU"):
        return f"torch {torch.__version__} multiplies 8-bit floats on GPUs only"
    return ""


def mm_fp8(a: Tensor, b: Tensor) -> Tensor:
    """a [M, K] times the transpose of b [N, K], both rounded as above.

    Args:
        a: float32 or bfloat16; b: likewise. K and N are multiples of 16. Not differentiable: see `ops.joint_linear`.

    Returns:
        [M, N] in a's dtype, with bfloat16's precision. A row of `a` that holds a nan or an infinity gives nan.
    """
    (a8, a_scale), (b8, b_scale) = _rounded(a), _rounded(b)
    product = F.scaled_mm(
        a8, b8.t(), a_scale, ScalingType.RowWise, b_scale.t(), ScalingType.RowWise, output_dtype=torch.bfloat16
    )
    return product.to(a.dtype)


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """[M, K] -> the same in 8 bits, contiguous, and the scales [M, 1]."""
    scale = (x.abs().amax(1, keepdim=True).float() / LARGEST).clamp_min(SMALLEST_SCALE)
    return (x.float() / scale).to(torch.float8_e4m3fn).contiguous(), scale
