"""Released weights of VQGAN: our network gives what the authors' gives, or a line says why not."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models.vqgan_weights import vqgan_from_weights

SETTINGS = {
    "image_shape": (8, 8, 3),
    "backbone": {
        "name": "vqgan",
        "ch": 4,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
        "z_channels": 6,
        "groups": 2,
        "post_quant_conv": True,
    },
    "bottleneck": {
        "name": "vq",
        "codes": 10,
        "depth": 6,
        "codebook_update": "loss",
        "start": "uniform",
    },
    "likelihood": {"name": "laplace", "scale": 0.5},
    "data_variance": 0.1,
    "dtype": "float32",
    "remat": False,
}


def build(**options):
    """The model, and the shapes of its parameters."""
    settings = SETTINGS | {part: SETTINGS[part] | changes for part, changes in options.items()}
    model = models.build(settings)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), {"image": x}, train=True), image
    )
    return model, variables["params"]


def twin(torch):
    """The release's VQModel with the settings above: its modules, and so its names."""
    nn = torch.nn
    silu = nn.functional.silu

    def norm(width):
        return nn.GroupNorm(2, width, eps=1e-6)

    class ResnetBlock(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.norm1, self.conv1 = norm(before), nn.Conv2d(before, after, 3, padding=1)
            self.norm2, self.conv2 = norm(after), nn.Conv2d(after, after, 3, padding=1)
            if before != after:
                self.nin_shortcut = nn.Conv2d(before, after, 1)

        def forward(self, x):
            h = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
            return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)

    class AttnBlock(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm = norm(width)
            self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

        def forward(self, x):
            h = self.norm(x)
            q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
            share = torch.softmax(q.transpose(1, 2) @ k * x.shape[1] ** -0.5, dim=2)
            return x + self.proj_out((v @ share.transpose(1, 2)).reshape(x.shape))

    class Sample(nn.Module):
        def __init__(self, width, **options):
            super().__init__()
            self.conv = nn.Conv2d(width, width, 3, **options)

    def level(blocks, attn, **sample):
        module = nn.Module()
        module.block, module.attn = nn.ModuleList(blocks), nn.ModuleList(attn)
        for name, layer in sample.items():
            setattr(module, name, layer)
        return module

    def middle(width):
        module = nn.Module()
        module.block_1, module.attn_1 = ResnetBlock(width, width), AttnBlock(width)
        module.block_2 = ResnetBlock(width, width)
        return module

    def through(mid, h):
        return mid.block_2(mid.attn_1(mid.block_1(h)))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_in = nn.Conv2d(3, 4, 3, padding=1)
            self.down = nn.ModuleList(
                [
                    level([ResnetBlock(4, 4)], [], downsample=Sample(4, stride=2)),
                    level([ResnetBlock(4, 8)], [AttnBlock(8)]),
                ]
            )
            self.mid = middle(8)
            self.norm_out, self.conv_out = norm(8), nn.Conv2d(8, 6, 3, padding=1)

        def forward(self, x):
            h = self.down[0].block[0](self.conv_in(x))
            h = self.down[0].downsample.conv(nn.functional.pad(h, (0, 1, 0, 1)))
            h = self.down[1].attn[0](self.down[1].block[0](h))
            return self.conv_out(silu(self.norm_out(through(self.mid, h))))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_in = nn.Conv2d(6, 8, 3, padding=1)
            self.mid = middle(8)
            self.up = nn.ModuleList(
                [
                    level([ResnetBlock(8, 4), ResnetBlock(4, 4)], []),
                    level(
                        [ResnetBlock(8, 8), ResnetBlock(8, 8)],
                        [AttnBlock(8), AttnBlock(8)],
                        upsample=Sample(8, padding=1),
                    ),
                ]
            )
            self.norm_out, self.conv_out = norm(4), nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, z):
            h = through(self.mid, self.conv_in(z))
            for block, attn in zip(self.up[1].block, self.up[1].attn, strict=True):
                h = attn(block(h))
            h = self.up[1].upsample.conv(nn.functional.interpolate(h, scale_factor=2.0))
            for block in self.up[0].block:
                h = block(h)
            return self.conv_out(silu(self.norm_out(h)))

    class VQModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = Encoder(), Decoder()
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(10, 6)
            self.quant_conv, self.post_quant_conv = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
            self.loss = nn.Linear(2, 2)  # what the release keeps beside

        def forward(self, x):
            z = self.quant_conv(self.encoder(x)).permute(0, 2, 3, 1)
            index = torch.cdist(z.reshape(-1, 6), self.quantize.embedding.weight).argmin(1)
            e = self.quantize.embedding(index).reshape(z.shape).permute(0, 3, 1, 2)
            return self.decoder(self.post_quant_conv(e)), index

    return VQModel()


def random_arrays(shapes, seed=0):
    """One array for each shape, none of them near 0 or 1."""
    rng = np.random.default_rng(seed)
    return {
        name: np.float32(rng.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]) / 2, 1)))
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def release(torch):
    """The release in small, and its arrays."""
    module = twin(torch)
    arrays = random_arrays({name: tuple(a.shape) for name, a in module.state_dict().items()})
    module.load_state_dict({name: torch.tensor(a) for name, a in arrays.items()})
    return module, arrays


def test_reconstructs_as_the_release(torch, release):
    module, arrays = release
    model, shapes = build()
    params = vqgan_from_weights(arrays, shapes)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
        lambda a: (a.shape, a.dtype), dict(shapes)
    )
    x = np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)
    with torch.no_grad():
        expected, index = module(torch.tensor(x).permute(0, 3, 1, 2))
    expected, index = expected.permute(0, 2, 3, 1).numpy(), index.numpy()
    apply = jax.jit(lambda x: model.apply({"params": params}, {"image": x}, train=False))
    output = apply((x + 1) / 2)
    assert len(set(index)) > 3
    np.testing.assert_array_equal(output.code.reshape(-1), index)
    np.testing.assert_allclose(2 * output.reconstruction - 1, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder.down.1.attn.0.q.weight": None},
            r"lack 'encoder\.down\.1\.attn\.0\.q\.weight', \[8, 8, 1, 1\]; the first found are ",
        ),
        (
            {"quantize.embedding.weight": np.zeros((12, 6))},
            r"'quantize\.embedding\.weight' is \[12, 6\], expected \[10, 6\]",
        ),
        (
            {"decoder.conv_in.weight": np.zeros((3, 3, 6, 8))},
            r"'decoder\.conv_in\.weight' is \[3, 3, 6, 8\], expected \[8, 6, 3, 3\]",
        ),
        ({"quant_conv.bias": np.full(6, np.nan)}, r"'quant_conv\.bias' is not finite"),
        (
            {"encoder.down.1.block.1.norm1.weight": np.ones(8)},
            r"hold 'encoder\.down\.1\.block\.1\.norm1\.weight', which this model does not have",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_weights_that_do_not_fit(release, change, message):
    arrays = {name: a for name, a in (release[1] | change).items() if a is not None}
    with pytest.raises(ValueError, match=message):
        vqgan_from_weights(arrays, build()[1])


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": {"post_quant_conv": False}},
        {"bottleneck": {"codebook_update": "ema"}},
        {"bottleneck": {"depth": 3, "codebooks": 2}},
    ],
    ids=str,
)
def test_models_that_are_another(options):
    with pytest.raises(ValueError, match="fit the backbone 'vqgan' with post_quant_conv=True and"):
        vqgan_from_weights({}, build(**options)[1])
