"""The same VQ-VAE in PyTorch, as one would write it there; started by `training.py`.

Encoder and decoder of Sonnet's example with Conv2d and ConvTranspose2d, the nearest codeword by
one matmul and argmin, moving averages, Adam; all images in memory beforehand.
"""

import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from turns import Turns

BATCH, CODES, DEPTH, DECAY, EPSILON = 32, 512, 64, 0.99, 1e-5


class Residual(nn.Module):
    def __init__(self, width, inside):
        super().__init__()
        self.conv3x3 = nn.Conv2d(width, inside, 3, padding=1)
        self.conv1x1 = nn.Conv2d(inside, width, 1)

    def forward(self, x):
        return x + self.conv1x1(F.relu(self.conv3x3(F.relu(x))))


class Codebook(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("codebook", torch.zeros(CODES, DEPTH))
        self.register_buffer("count", torch.zeros(CODES))
        self.register_buffer("total", torch.zeros(CODES, DEPTH))

    @torch.no_grad()
    def start(self, z):
        """From random features of a batch."""
        rows = z.reshape(-1, DEPTH)
        chosen = rows[torch.randperm(len(rows))[:CODES]]
        share = len(rows) / CODES
        self.codebook.copy_(chosen)
        self.count.fill_(share)
        self.total.copy_(chosen * share)

    def forward(self, z):
        """`[batch, height, width, depth]`."""
        x = z.reshape(-1, DEPTH)
        with torch.no_grad():
            e = self.codebook
            distance = (x**2).sum(1, keepdim=True) - 2 * x @ e.T + (e**2).sum(1)
            index = distance.argmin(1)
        quantized = e[index].view_as(z)
        with torch.no_grad():
            n = torch.bincount(index, minlength=CODES).float()
            s = torch.zeros_like(e).index_add_(0, index, x)
            self.count.mul_(DECAY).add_(n, alpha=1 - DECAY)
            self.total.mul_(DECAY).add_(s, alpha=1 - DECAY)
            everything = self.count.sum()
            smoothed = (self.count + EPSILON) / (everything + CODES * EPSILON) * everything
            self.codebook = self.total / smoothed[:, None]
        commitment = F.mse_loss(z, quantized)
        return z + (quantized - z).detach(), commitment


class VQVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 4, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding=1),
            Residual(128, 32),
            Residual(128, 32),
            nn.ReLU(),
            nn.Conv2d(128, DEPTH, 1),
        )
        self.bottleneck = Codebook()
        self.decoder = nn.Sequential(
            nn.Conv2d(DEPTH, 128, 3, padding=1),
            Residual(128, 32),
            Residual(128, 32),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, 2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 3, 4, 2, padding=1),
        )

    def features(self, x):
        return self.encoder(x).permute(0, 2, 3, 1)

    def forward(self, x):
        latent, commitment = self.bottleneck(self.features(x))
        return self.decoder(latent.permute(0, 3, 1, 2)), commitment


def centred(image):
    return image.float() / 255 - 0.5


def main(images: str) -> None:
    turns = Turns()
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    image = np.load(images)
    variance = float(np.var(image[:4096] / 255))
    image = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(device)
    model = VQVAE().to(device)
    for module in model.modules():  # starts as Flax does
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(module, nn.ConvTranspose2d)
            fan_in = module.weight[0].numel() if not transposed else module.weight[:, 0].numel()
            std = fan_in**-0.5 / 0.88  # of the normal before it is cut off at twice this
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(module.bias)
    model.bottleneck.start(model.features(centred(image[:BATCH])))
    adam = torch.optim.Adam(model.parameters(), lr=3e-4)
    steps = 0

    def one_step():
        nonlocal steps
        first = steps * BATCH % (len(image) - BATCH + 1)
        steps += 1
        x = centred(image[first : first + BATCH])
        y, commitment = model(x)
        error = F.mse_loss(y, x) / variance
        adam.zero_grad()
        (error + 0.25 * commitment).backward()
        adam.step()
        return error.detach()

    turns.serve(one_step, device=torch.cuda.get_device_name() if device == "cuda" else "cpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
