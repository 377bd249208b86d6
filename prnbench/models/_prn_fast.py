"""PRN for inference: batch norm folded in, stride-1 transposed convolutions written as convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- its usual name

from prnbench.models.prn import PRN, ConvNorm, ResidualBlock, SameConvTranspose2d


class FoldedConv(nn.Module):
    """Convolution with its batch norm folded in, padding and ReLU.

    Parameters
    ----------
    layer
        The trained layer, in evaluation mode.
    """

    def __init__(self, layer: ConvNorm):
        super().__init__()
        scale, shift = scale_and_shift(layer.norm)
        weight, stride, kernel = layer.conv.weight.detach(), layer.conv.stride[0], layer.conv.kernel_size[0]
        self.padding, self.relu = (0, 0, 0, 0), layer.relu
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if isinstance(layer.conv, SameConvTranspose2d) and stride == 2:
            self.conv = nn.ConvTranspose2d(weight.shape[0], weight.shape[1], kernel, stride, padding=1)
            weight = weight * scale[None, :, None, None]
        else:
            if isinstance(layer.conv, SameConvTranspose2d):
                weight, self.padding = weight.flip(2, 3).transpose(0, 1), (2, 1, 2, 1)
            elif (kernel, stride) == (4, 1):
                self.padding = (1, 2, 1, 2)
            outer = 1 if (kernel, stride) == (4, 2) else 0
            self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride, outer)
            weight = weight * scale[:, None, None, None]
        _assign(self.conv, weight, shift)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h', w')."""
        x = self.conv(F.pad(x, self.padding) if any(self.padding) else x)
        return F.relu(x) if self.relu else x


class FoldedBlock(nn.Module):
    """Residual block whose last norm, which follows the sum, is folded into both summands."""

    def __init__(self, block: ResidualBlock):
        super().__init__()
        self.reduce, self.spatial = FoldedConv(block.reduce), FoldedConv(block.spatial)
        scale, shift = scale_and_shift(block.norm)
        self.expand = _folded_plain(block.expand, scale, shift)
        self.shortcut: nn.Module
        if isinstance(block.shortcut, nn.Conv2d):
            self.shortcut = _folded_plain(block.shortcut, scale, None)
        else:
            self.shortcut = ChannelScale(scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h', w')."""
        return F.relu(self.expand(self.spatial(self.reduce(x))) + self.shortcut(x))


class ChannelScale(nn.Module):
    """A factor for each channel."""

    scale: Tensor

    def __init__(self, scale: Tensor):
        super().__init__()
        self.register_buffer("scale", scale[None, :, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return x * self.scale


class FoldedPRN(nn.Module):
    """PRN with everything folded; equal to the network in evaluation mode up to float32 rounding.

    Parameters
    ----------
    network
        The trained network.
    """

    def __init__(self, network: PRN):
        super().__init__()
        blocks = [block for block in network.encoder if isinstance(block, ResidualBlock)]
        layers = [layer for layer in network.decoder if isinstance(layer, ConvNorm)]
        self.body = nn.Sequential(
            FoldedConv(network.stem),
            *(FoldedBlock(block) for block in blocks),
            *(FoldedConv(layer) for layer in layers[:-FLOAT32_LAYERS]),
        )
        self.head_channels = layers[-FLOAT32_LAYERS].conv.in_channels
        self.head = nn.Sequential(*(FoldedConv(layer) for layer in layers[-FLOAT32_LAYERS:]), FoldedConv(network.head))

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """Images (B, 3, R, R) in 0..1 to position maps (B, 3, R, R) in 0..1, float32."""
        return torch.sigmoid(self.head(self.body(image_B3RR.to(self.dtype)).float()))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the body's weights."""
        return next(self.body.parameters()).dtype

    def with_precision(self, precision: str) -> FoldedPRN:
        """Put the body in ``float32`` or ``bf16``; the last layers stay float32 (bf16 would round by half a pixel)."""
        self.body.to({"float32": torch.float32, "bf16": torch.bfloat16}[precision])
        return self


FLOAT32_LAYERS = 2
"""Decoder layers before the last that stay float32 with it: those with 3 channels."""


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch norm in evaluation mode as x * scale + shift, each (C,)."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias.detach() - norm.running_mean * scale


def _folded_plain(conv: nn.Conv2d, scale: Tensor, shift: Tensor | None) -> nn.Conv2d:
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride[0], bias=shift is not None)
    _assign(folded, conv.weight.detach() * scale[:, None, None, None], shift)
    return folded


def _assign(conv: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        conv.weight.copy_(weight)
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
