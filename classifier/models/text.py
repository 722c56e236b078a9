"""Text towers: what a sentence becomes beside an image, from tokens trained here or from a frozen encoder's vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PADDING = 0  # the token after a text's end
_HEADS = 4
_BLOCKS = 2


class TextTransformer(nn.Module):
    """Tokens int64 B×L (`PADDING` after a text's end) → embeddings float B×`width`: a small transformer, trained here.

    Two pre-norm blocks (Xiong et al. 2020, arXiv 2002.04745) with learned positions; the mean over the tokens that are
    there, then a linear layer.
    """

    def __init__(self, tokens: int, longest: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(tokens, width, padding_idx=PADDING)
        self.position = nn.Parameter(0.02 * torch.randn(longest, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, _HEADS, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(_BLOCKS)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        padding = tokens == PADDING
        # What is left of a batch beyond its longest text costs time and changes nothing.
        length = max(1, int((~padding).sum(dim=1).max()))
        tokens, padding = tokens[:, :length], padding[:, :length]
        x = self.token(tokens) + self.position[:length]
        mask = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, -torch.inf)
        mask = mask.masked_fill(
            padding.all(dim=1, keepdim=True), 0.0
        )  # an empty text attends to nothing else
        for block in self.blocks:
            x = block(x, src_key_padding_mask=mask)
        there = (~padding).unsqueeze(2).to(x.dtype)
        mean = (self.norm(x) * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
        return self.out(mean)


class TextProjection(nn.Module):
    """Vectors float B×D of a frozen encoder → embeddings float B×`width`: one linear layer (as in LiT, arXiv 2111.07991)."""

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(dimension, width)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.out(vectors)
