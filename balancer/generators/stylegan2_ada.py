"""StyleGAN2-ADA as a family of generators: one training step around the networks in `vendor.stylegan2_ada`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import vendor.stylegan2_ada as sg
from balancer.devices import computes_bfloat16
from balancer.errors import InputError
from balancer.generators.adversaries import Adversaries, Chunk
from balancer.generators.augmentation import augmentation, p_is_free
from balancer.generators.averaging import average_weights
from balancer.generators.condition import (
    as_vectors,
    check_condition,
    condition_share,
    decorrelation,
    entries,
)
from balancer.generators.config import GeneratorConfig
from balancer.generators.freezing import freeze_blocks, held

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
            mapping_layers=2,
        )

    def network_config(self, config: GeneratorConfig, classes: int, resolution: int) -> dict[str, Any]:
        if resolution < 8 or resolution & (resolution - 1):
            raise InputError(
                f"{config.generator} needs a resolution that is a power of two and at least 8, not {resolution}; "
                "prepare the dataset with --resolution 32, 64 or 128."
            )
        lower = [2**level for level in range(2, resolution.bit_length() - 1)]
        if config.classless_resolution not in (0, *lower):
            raise InputError(
                f"classless_resolution must be {', '.join(map(str, lower))} or 0 for images of {resolution} px, "
                f"not {config.classless_resolution}."
            )
        network = {
            "z_dim": config.latent,
            "c_dim": entries(config, classes),
            "w_dim": config.latent,
            "img_resolution": resolution,
            "img_channels": 3,
            "mapping_kwargs": {"num_layers": config.mapping_layers},
            "synthesis_kwargs": {"channel_base": config.channel_base, "channel_max": config.channel_max},
        }
        if config.classless_resolution:
            network["classless_resolution"] = config.classless_resolution
        return network

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
        c = as_vectors(labels, generator.c_dim) if generator.c_dim else None
        # Noise of its own for each image, drawn from its latent: the fixed noise gives all images one texture.
        noise = [torch.Generator().manual_seed(int(bits)) for bits in z[:, 0].cpu().view(torch.int32)]
        return generator(z, c, truncation_psi=truncation, noise_mode="random", generator=noise)


class StyleGAN2Adversaries(Adversaries):
    """The networks, their optimizers and one step of training them.

    While the condition grows (`condition_share`), the generator's class embedding is multiplied by λ after its
    normalisation, and the discriminator's logit is a mean of that for the class and those for all classes, with
    weights λ and 1 − λ. Samples of a checkpoint from before the end of that are made as if λ were 1. With attributes, it
    is the mean for their values, each told alone.
    """

    r1_interval: int | None = R1_INTERVAL  # None: the family has no gradient penalty

    def __init__(self, config: GeneratorConfig, network: dict[str, Any], device: torch.device) -> None:
        super().__init__(config)
        check_condition(config)
        self.z_dim, self.c_dim = network["z_dim"], network["c_dim"]
        G, D = sg.Generator(**network), self.new_discriminator(network)
        freeze_blocks(self.discriminator_blocks(D), config.freeze_discriminator)
        G.synthesis.dtype = D.dtype = torch.bfloat16 if computes_bfloat16(device) else torch.float32
        G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        G_ema.synthesis.dtype = torch.float32
        self.G, self.D, self.G_ema = G.to(device), D.to(device), G_ema.to(device)
        self.augment = augmentation(config).to(device)
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
        assert config.learning_rate
        self.learning_rate, self.gamma = config.learning_rate, config.gamma
        self.optimizers = {
            "G": self._adam(G, PATH_LENGTH_INTERVAL if config.path_length_weight else None),
            "D": self._adam(D, self.r1_interval),
        }

    def new_discriminator(self, network: dict[str, Any]) -> Any:
        """The discriminator for images of a generator with these constructor arguments, untrained."""
        return sg.Discriminator(
            c_dim=self.c_dim,
            img_resolution=network["img_resolution"],
            img_channels=3,
            epilogue_kwargs={"mbstd_group_size": 4},
            **network["synthesis_kwargs"],
        )

    def discriminator_blocks(self, D: nn.Module) -> list[list[nn.Module]]:
        """The discriminator's blocks that Freeze-D may freeze, from the image on."""
        assert isinstance(D, sg.Discriminator)
        return [[D.get_submodule(f"b{side}")] for side in D.block_resolutions]

    def _adam(self, network: nn.Module, interval: int | None) -> torch.optim.Adam:
        """Adam whose rate and moments allow for the extra steps of a lazy regulariser (arXiv 1912.04958, B)."""
        k = interval / (interval + 1) if interval else 1.0
        return torch.optim.Adam(
            network.parameters(), lr=self.learning_rate * k, betas=(0.0, 0.99**k), eps=1e-8
        )

    def step(self, step: int, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
        """Both updates see the same generated images, the discriminator's under an augmentation of its own."""
        config = self.config
        self.let_condition_grow(step)
        fakes: list[Tensor] = []
        with held(self.D):
            logged = {"loss_g": self.update("G", self.generator_losses(chunks, fakes))}
            if config.path_length_weight and step % PATH_LENGTH_INTERVAL == 0:
                weight = config.path_length_weight * PATH_LENGTH_INTERVAL
                self.update("G", (weight * self.path_length_penalty(chunk) for chunk in chunks))

        signs: list[Tensor] = []
        losses = (self.discriminator_loss(*both, signs) for both in zip(fakes, chunks, strict=True))
        logged["loss_d"] = self.update("D", losses)
        if self.r1_interval and step % self.r1_interval == 0:
            assert self.gamma
            weight = self.gamma / 2 * self.r1_interval
            self.update("D", (weight * self.gradient_penalty(chunk) for chunk in chunks))

        return logged | self.follow(step, signs)

    def let_condition_grow(self, step: int) -> None:
        share = condition_share(self.config, step)
        self.G.mapping.condition = self.G_ema.mapping.condition = self.D.condition = share

    def observe(self, real: Tensor, signs: list[Tensor]) -> None:
        """Take in the logits of real images: for the controller of p, and their mean sign into `signs` for the log."""
        self.ada.observe(real)
        signs.append(real.detach().sign().mean())

    def follow(self, step: int, signs: list[Tensor]) -> dict[str, Tensor]:
        """What comes after the updates: p follows the discriminator's overfitting, G_ema follows G."""
        if p_is_free(self.config) and (step + 1) % ADA_INTERVAL == 0:
            assert isinstance(self.augment, sg.AugmentPipe)
            self.ada.adjust(self.augment)
        images = self.config.batch_size
        half_life = min(self.config.ema_kimg * 1000, (step + 1) * images * self.config.ema_rampup)
        average_weights(self.G_ema, self.G, images, half_life)
        return {"real_sign": torch.stack(signs).mean(), "augmentation_p": self.augment.p}

    def generate(self, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images of these classes and the ws they are made from."""
        return sg.run_generator(
            self.G,
            self.latents(len(labels), rng),
            self.condition(labels),
            self.config.style_mixing,
            rng,
            self.config.embedding_noise,
        )

    def latents(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, self.z_dim, generator=rng, device=rng.device)

    def judge(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """The discriminator's logits, N×1, of augmented images."""
        return self.D(self.augment(images, generator=rng), self.condition(labels))

    def condition(self, labels: Tensor) -> Tensor:
        return as_vectors(labels, self.c_dim)

    def generator_losses(self, chunks: Sequence[Chunk], fakes: list[Tensor]) -> Iterator[Tensor]:
        """The loss of each chunk in turn; the images that it was taken of go to `fakes`, without their graph."""
        for chunk in chunks:
            fake, _ = self.generate(chunk.fake_labels, chunk.rng)
            fakes.append(fake.detach())
            yield self.generator_loss(fake, chunk) + self.twin_loss(chunk)

    def generator_loss(self, fake: Tensor, chunk: Chunk) -> Tensor:
        return sg.g_nonsaturating(self.judge(fake, chunk.fake_labels, chunk.rng)).mean()

    def twin_loss(self, chunk: Chunk) -> Tensor | float:
        """NoisyTwins' loss, weighted: between two w of the same latents and classes, under noise of their own."""
        config, labels, rng = self.config, chunk.fake_labels, chunk.rng
        if config.decorrelation == 0:
            return 0.0
        z, c = self.latents(len(labels), rng), self.condition(labels)
        one, other = (
            self.G.mapping(
                z, c, skip_w_avg_update=True, embedding_noise=config.embedding_noise, generator=rng
            )[:, -1]
            for _ in range(2)
        )
        return config.decorrelation * decorrelation(one, other)

    def path_length_penalty(self, chunk: Chunk) -> Tensor:
        images, ws = self.generate(chunk.fake_labels[: len(chunk.real) // 2], chunk.rng)
        return self.path_length(images, ws, chunk.rng).mean()

    def discriminator_loss(self, fake: Tensor, chunk: Chunk, signs: list[Tensor]) -> Tensor:
        """The loss; the mean sign of the logits of real images goes to `signs` and to the controller of p."""
        real = self.judge(chunk.real, chunk.labels, chunk.rng)
        self.observe(real, signs)
        return sg.d_logistic(real, self.judge(fake, chunk.fake_labels, chunk.rng)).mean()

    def gradient_penalty(self, chunk: Chunk) -> Tensor:
        def judge(images: Tensor, labels: Tensor) -> Tensor:
            return self.judge(images, labels, chunk.rng)

        return sg.r1_penalty(judge, chunk.real, chunk.labels).mean()
