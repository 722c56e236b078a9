"""StyleGAN2-ADA as a family of generators: one training step around the networks in `vendor.stylegan2_ada`."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vendor.stylegan2_ada as sg
from balancer.devices import computes_bfloat16
from balancer.errors import InputError
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
        return Adversaries(config, self.network_config(config, classes, resolution), device)

    def generator(self, network: dict[str, Any]) -> sg.Generator:
        return sg.Generator(**network)

    def latents(self, network: dict[str, Any], seeds: list[int]) -> Tensor:
        draw = [torch.randn(network["z_dim"], generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(draw)

    def sample(self, generator: nn.Module, z: Tensor, labels: Tensor, truncation: float) -> Tensor:
        assert isinstance(generator, sg.Generator)
        c = F.one_hot(labels, generator.c_dim).float()
        return generator(z, c, truncation_psi=truncation, noise_mode="const")


class Adversaries:
    """The networks, their optimizers and one step of training them."""

    def __init__(self, config: GeneratorConfig, network: dict[str, Any], device: torch.device) -> None:
        self.config = config
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
        self.modules: dict[str, nn.Module] = {
            "G": self.G,
            "D": self.D,
            "G_ema": self.G_ema,
            "augment": self.augment,
            "ada": self.ada,
            "path_length": self.path_length,
        }
        assert config.learning_rate and config.gamma
        self.learning_rate, self.gamma = config.learning_rate, config.gamma
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "G": self._adam(G, PATH_LENGTH_INTERVAL if config.path_length_weight else None),
            "D": self._adam(D, R1_INTERVAL),
        }

    def _adam(self, network: nn.Module, interval: int | None) -> torch.optim.Adam:
        """Adam whose rate and moments allow for the extra steps of a lazy regulariser (arXiv 1912.04958, B)."""
        k = interval / (interval + 1) if interval else 1.0
        return torch.optim.Adam(
            network.parameters(), lr=self.learning_rate * k, betas=(0.0, 0.99**k), eps=1e-8
        )

    def step(
        self, step: int, real: Tensor, labels: Tensor, fake_labels: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        G, D = self.G, self.D
        c, c_fake = (F.one_hot(y, self.c_dim).float() for y in (labels, fake_labels))
        n, config = len(real), self.config

        def judge(images: Tensor, c: Tensor) -> Tensor:
            return D(self.augment(images, generator=rng), c)

        def latents(m: int) -> Tensor:
            return torch.randn(m, self.z_dim, generator=rng, device=rng.device)

        D.requires_grad_(False)
        fake, _ = sg.run_generator(G, latents(n), c_fake, config.style_mixing, rng)
        loss_g = sg.g_nonsaturating(judge(fake, c_fake)).mean()
        self._update("G", loss_g)
        logged = {"loss_g": loss_g}
        if config.path_length_weight and step % PATH_LENGTH_INTERVAL == 0:
            m = n // 2
            images, ws = sg.run_generator(G, latents(m), c_fake[:m], config.style_mixing, rng)
            penalty = self.path_length(images, ws, rng).mean()
            self._update("G", penalty * config.path_length_weight * PATH_LENGTH_INTERVAL)
        D.requires_grad_(True)

        with torch.no_grad():
            fake, _ = sg.run_generator(G, latents(n), c_fake, config.style_mixing, rng)
        logits_real, logits_fake = judge(real, c), judge(fake, c_fake)
        loss_d = sg.d_logistic(logits_real, logits_fake).mean()
        self._update("D", loss_d)
        if step % R1_INTERVAL == 0:
            r1 = sg.r1_penalty(judge, real, c).mean()
            self._update("D", r1 * (self.gamma / 2 * R1_INTERVAL))

        self.ada.observe(logits_real)
        if (step + 1) % ADA_INTERVAL == 0:
            self.ada.adjust(self.augment)
        seen = (step + 1) * config.batch_size
        half_life = min(config.ema_kimg * 1000, seen * config.ema_rampup)
        average_weights(self.G_ema, G, config.batch_size, half_life)
        logged |= {"loss_d": loss_d, "real_sign": logits_real.sign().mean(), "augmentation_p": self.augment.p}
        return logged

    def _update(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
