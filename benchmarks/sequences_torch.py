"""The MNIST Topographic VAE in PyTorch, as its authors wrote it; started by `sequences.py`.

Layers of the released sizes, W as a convolution of ones with the band's kernel over the circularly
padded u^2, SGD with momentum; all sequences rendered and in memory beforehand.
"""

import itertools
import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from turns import Turns

BATCH, FRAMES, CAPSULES, PLACES, WINDOW, SPREAD, EPSILON = 8, 18, 18, 18, 13, 1, 1e-6
UNITS = CAPSULES * PLACES


def encoder(values):
    layers = (values, 3 * UNITS, 2 * UNITS, 2 * UNITS)
    dense = [nn.Linear(a, b) for a, b in itertools.pairwise(layers)]
    return nn.Sequential(dense[0], nn.ReLU(), dense[1], nn.ReLU(), dense[2])


class TopographicVAE(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.z, self.u = encoder(values), encoder(values)
        self.decoder = nn.Sequential(
            nn.Linear(UNITS, 2 * UNITS),
            nn.ReLU(),
            nn.Linear(2 * UNITS, 3 * UNITS),
            nn.ReLU(),
            nn.Linear(3 * UNITS, values, bias=False),
        )
        self.bias = nn.Parameter(torch.zeros(3).uniform_(-1, 1) / math.sqrt(values))
        for layer in self.decoder[::2]:  # as PyTorch's transposed convolutions start
            nn.init.uniform_(layer.weight, -1, 1)
            layer.weight.data /= math.sqrt(layer.out_features)
        self.mu = nn.Parameter(torch.tensor(30.0))
        a, e = np.mgrid[:WINDOW, :WINDOW]
        band = torch.tensor(abs(a - e) <= SPREAD, dtype=torch.float32)
        self.register_buffer("kernel", band[None, None])

    def energy(self, u):
        """W u^2; u `[batch, frames, capsules, places]`."""
        h = u.square().transpose(1, 2).reshape(-1, 1, FRAMES, PLACES)
        half = WINDOW // 2
        h = F.conv2d(F.pad(h, (half, half, half, half), mode="circular"), self.kernel)
        return h.reshape(-1, CAPSULES, FRAMES, PLACES).transpose(1, 2)

    def forward(self, x):
        """Nats per frame of images `[batch, frames, height, width, channels]` in [0, 1]."""
        flat = x.reshape(BATCH * FRAMES, -1)
        draws, kl = [], 0
        for net in (self.z, self.u):
            mean, log_variance = net(flat).chunk(2, dim=1)
            draws.append(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
            kl = kl + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        z, u = (d.reshape(BATCH, FRAMES, CAPSULES, PLACES) for d in draws)
        t = (z + self.mu) / torch.sqrt(self.energy(u) + EPSILON)
        logits = self.decoder(t.reshape(BATCH * FRAMES, UNITS)).reshape(*x.shape) + self.bias
        nats = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        error = (logits.sigmoid() - x).square().mean() / x.var()
        return (nats + kl) / (BATCH * FRAMES), error


def main(path: str) -> None:
    turns = Turns()
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sequences = torch.from_numpy(np.load(path)).to(device)
    model = TopographicVAE(sequences[0, 0].numel()).to(device)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    steps = 0

    def one_step():
        nonlocal steps
        first = steps * BATCH % (len(sequences) - BATCH + 1)
        steps += 1
        loss, error = model(sequences[first : first + BATCH].float() / 255)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        return error.detach()

    turns.serve(one_step, device=torch.cuda.get_device_name() if device == "cuda" else "cpu")


if __name__ == "__main__":
    main(*sys.argv[1:])
