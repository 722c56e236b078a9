"""StyleGAN2-ADA as a family of generators: one training step around the networks in `vendor.stylegan2_ada`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vendor.stylegan2_ada as sg
from balancer.devices import computes_bfloat16
from balancer.errors import InputError
from balancer.generators.adversaries import Adversaries, Chunk
from balancer.generators.averaging import average_weights
from balancer.generators.config import GeneratorConfig

R1_INTERVAL = 16  # steps between two R1 penalties (arXiv 1912.04958, appendix B)
PATH_LENGTH_INTERVAL = 4
ADA_INTERVAL = 4  # steps between two adjustments of p (arXiv 2006.06676, section 3.2)


class StyleGAN2ADA:
    """The family `stylegan2-ada` (arXiv 1912.04958, 2006.06676)."""

    def resolve(self, config: GeneratorConfig, resolution: int) -> GeneratorConfig:
        return config.with_defaults(
            learning_rate=0.0025,
            augmentation="bgc",
            gamma=sg.default_gamma(resolution, config.batch_size),
            channel_base=2048 if resolution <= 32 else 4096,
            channel_max=128,
            latent=128,
        )

    def network_config(self, config: GeneratorConfig, classes: int, resolution: int) -> dict[str, Any]:
        if resolution < 8 or resolution & (resolution - 1):
            raise InputError(
                f"{config.generator} needs a resolution that is a power of two and at least 8, not {resolution}; "
                "prepare the dataset with --resolution 32, 64 or 128."
            )
        return {
            "z_dim": config.latent,
            "c_dim": classes,
            "w_dim": config.latent,
            "img_resolution": resolution,
            "img_channels": 3,
            "mapping_kwargs": {"num_layers": 2},
            "synthesis_kwargs": {"channel_base": config.channel_base, "channel_max": config.channel_max},
        }

    def adversaries(
        self, config: GeneratorConfig, classes: int, resolution: int, device: torch.device
    ) -> Adversaries:
        return StyleGAN2Adversaries(config, self.network_config(config, classes, resolution), device)

    def generator(self, network: dict[str, Any]) -> sg.Generator:
        return sg.Generator(**network)

    def latents(self, network: dict[str, Any], seeds: list[int]) -> Tensor:
        draw = [torch.randn(network["z_dim"], generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(draw)

    def sample(self, generator: nn.Module, z: Tensor, labels: Tensor, truncation: float) -> Tensor:
        assert isinstance(generator, sg.Generator)
        c = F.one_hot(labels, generator.c_dim).float()
        return generator(z, c, truncation_psi=truncation, noise_mode="const")


class StyleGAN2Adversaries(Adversaries):
    """The networks, their optimizers and one step of training them."""

    def __init__(self, config: GeneratorConfig, network: dict[str, Any], device: torch.device) -> None:
        super().__init__(config)
        self.z_dim, self.c_dim = network["z_dim"], network["c_dim"]
        resolution = network["img_resolution"]
        G = sg.Generator(**network)
        D = sg.Discriminator(
            c_dim=self.c_dim,
            img_resolution=resolution,
            img_channels=3,
            epilogue_kwargs={"mbstd_group_size": 4},
            **network["synthesis_kwargs"],
        )
        G.synthesis.dtype = D.dtype = torch.bfloat16 if computes_bfloat16(device) else torch.float32
        G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        G_ema.synthesis.dtype = torch.float32
        self.G, self.D, self.G_ema = G.to(device), D.to(device), G_ema.to(device)
        self.augment = sg.AugmentPipe(**sg.PRESETS["bgc"]).to(device)
        self.augment.p.zero_()
        self.ada = sg.AdaptiveAugmentation(config.ada_target, config.ada_kimg * 1000).to(device)
        self.path_length = sg.PathLength().to(device)
        self.modules = {
            "G": self.G,
            "D": self.D,
            "G_ema": self.G_ema,
            "augment": self.augment,
            "ada": self.ada,
            "path_length": self.path_length,
        }
        assert config.learning_rate and config.gamma
        self.learning_rate, self.gamma = config.learning_rate, config.gamma
        self.optimizers = {
            "G": self._adam(G, PATH_LENGTH_INTERVAL if config.path_length_weight else None),
            "D": self._adam(D, R1_INTERVAL),
        }

    def _adam(self, network: nn.Module, interval: int | None) -> torch.optim.Adam:
        """Adam whose rate and moments allow for the extra steps of a lazy regulariser (arXiv 1912.04958, B)."""
        k = interval / (interval + 1) if interval else 1.0
        return torch.optim.Adam(
            network.parameters(), lr=self.learning_rate * k, betas=(0.0, 0.99**k), eps=1e-8
        )

    def step(self, step: int, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
        config = self.config
        self.D.requires_grad_(False)
        logged = {"loss_g": self.update("G", (self.generator_loss(chunk) for chunk in chunks))}
        if config.path_length_weight and step % PATH_LENGTH_INTERVAL == 0:
            weight = config.path_length_weight * PATH_LENGTH_INTERVAL
            self.update("G", (weight * self.path_length_penalty(chunk) for chunk in chunks))
        self.D.requires_grad_(True)

        signs: list[Tensor] = []
        logged["loss_d"] = self.update("D", (self.discriminator_loss(chunk, signs) for chunk in chunks))
        if step % R1_INTERVAL == 0:
            weight = self.gamma / 2 * R1_INTERVAL
            self.update("D", (weight * self.gradient_penalty(chunk) for chunk in chunks))

        if (step + 1) % ADA_INTERVAL == 0:
            self.ada.adjust(self.augment)
        seen = (step + 1) * config.batch_size
        half_life = min(config.ema_kimg * 1000, seen * config.ema_rampup)
        average_weights(self.G_ema, self.G, config.batch_size, half_life)
        return logged | {"real_sign": torch.stack(signs).mean(), "augmentation_p": self.augment.p}

    def generate(self, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images of these classes and the ws they are made from."""
        z = torch.randn(len(labels), self.z_dim, generator=rng, device=rng.device)
        return sg.run_generator(self.G, z, self.condition(labels), self.config.style_mixing, rng)

    def judge(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """The discriminator's logits, N×1, of augmented images."""
        return self.D(self.augment(images, generator=rng), self.condition(labels))

    def condition(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.c_dim).float()

    def generator_loss(self, chunk: Chunk) -> Tensor:
        fake, _ = self.generate(chunk.fake_labels, chunk.rng)
        return sg.g_nonsaturating(self.judge(fake, chunk.fake_labels, chunk.rng)).mean()

    def path_length_penalty(self, chunk: Chunk) -> Tensor:
        images, ws = self.generate(chunk.fake_labels[: len(chunk.real) // 2], chunk.rng)
        return self.path_length(images, ws, chunk.rng).mean()

    def discriminator_loss(self, chunk: Chunk, signs: list[Tensor]) -> Tensor:
        """The loss; the mean sign of the logits of real images goes to `signs` and to the controller of p."""
        with torch.no_grad():
            fake, _ = self.generate(chunk.fake_labels, chunk.rng)
        real = self.judge(chunk.real, chunk.labels, chunk.rng)
        self.ada.observe(real)
        signs.append(real.detach().sign().mean())
        return sg.d_logistic(real, self.judge(fake, chunk.fake_labels, chunk.rng)).mean()

    def gradient_penalty(self, chunk: Chunk) -> Tensor:
        def judge(images: Tensor, labels: Tensor) -> Tensor:
            return self.judge(images, labels, chunk.rng)

        return sg.r1_penalty(judge, chunk.real, chunk.labels).mean()
