"""Stage one: learn the mapping between pictures and image tokens.

The encoder and decoder learn by gradient descent on the reconstruction; the codebook follows the
encoder as a moving average of the latents that chose each code (van den Oord, Vinyals and
Kavukcuoglu, "Neural Discrete Representation Learning", 2017, appendix A.1). It starts from encoder
outputs, and codes that nothing chooses any more are moved to where the latents are: from random
numbers a codebook collapses to a handful of codes.

Left to itself the encoder says something with every token, also where the picture is plain: white
places take dozens of codes, which tell of what is drawn elsewhere. For the second stage that is
noise. With a `rate`, rare codes are dearer than common ones, and plain places share one or two.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from minidalle.checkpoints import load_vqgan, locate, native
from minidalle.data.sources import GIVEN, Source, open_source, some_pictures
from minidalle.data.stream import ShardStream
from minidalle.pictures import image_grid, to_pil
from minidalle.training.evaluate import evaluate_vqgan
from minidalle.training.loop import Generators, LoopConfig, learning_rate_factor
from minidalle.training.losses import LossConfig, VQGANLoss, discriminator_step
from minidalle.training.processes import in_batch_order
from minidalle.training.run_folder import with_commit
from minidalle.training.settings import refuse
from minidalle.vqgan import VQGAN, VQGANConfig, VQGANOutput


@dataclass(frozen=True)
class VQGANTrainConfig:
    """What the first stage learns, and how."""

    vqgan: VQGANConfig = field(default_factory=VQGANConfig.emoji)  # its shape
    data: str = "emoji"  # emoji (-more, -filled), shapes, a folder of captioned pictures, or shards
    # VQGAN to go on from, a path or hub id, with as many codes or fewer; empty = random weights
    init: str = ""
    lr: float = 8e-4  # at the peak
    losses: LossConfig = field(default_factory=LossConfig)  # how much each part of the loss counts
    freeze_tokens: bool = False  # keep encoder and codebook of `init`; only the decoder learns on
    ema_decay: float = 0.99  # of the codebook's moving average, per step
    revive_below: float = 0.5  # a code chosen less often than this per step, on average, is dead
    revive_every: int = 25  # steps between revivals
    revive_until: float = 0.8  # share of the run after which the codebook is left in peace
    rate: float = 0.0  # how much dearer rare codes are than common ones; takes one of embed_dim
    max_shift: int = 3  # pictures are moved by up to so many pixels, and half of them mirrored,
    jitter_until: float = 0.7  # up to this share of the run; then they stay as they are

    def __post_init__(self) -> None:
        wrong = [] if self.lr > 0 else [f"lr is {self.lr}; it must be above 0"]
        for name in ("ema_decay", "revive_until", "jitter_until"):
            if not 0 <= getattr(self, name) <= 1:
                wrong.append(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if self.revive_every < 1:
            wrong.append(f"revive_every is {self.revive_every}; it must be at least 1")
        for name in ("revive_below", "max_shift", "rate"):
            if not getattr(self, name) >= 0:
                wrong.append(f"{name} is {getattr(self, name)}; it must be at least 0")
        refuse(wrong)

    @classmethod
    def presets(cls) -> dict[str, tuple[VQGANTrainConfig, LoopConfig]]:
        """By name: "emoji" is the embedded model's first run, two others go on from it by `init`.

        "emoji-finish" takes the pictures as they are in its second half, and cares more for squared
        differences; "emoji-crisp" lets a discriminator sharpen the decoder, under the same tokens.
        """
        first = cls(rate=0.5)
        finish = cls(
            lr=5e-4,
            losses=LossConfig(l1_weight=0.5, l2_weight=8.0, perceptual_weight=0.1),
            max_shift=2,
            jitter_until=0.5,
            ema_decay=0.995,
            revive_below=0.1,
            rate=0.5,
        )
        crisp = cls(
            lr=2e-4,
            losses=replace(finish.losses, adversarial_weight=0.3),
            freeze_tokens=True,
            rate=0.5,
            max_shift=2,
            jitter_until=0.5,
        )
        return {
            "emoji": (first, LoopConfig(steps=2300, batch_size=64, evaluate_every=200)),
            "emoji-finish": (finish, LoopConfig(steps=5500, batch_size=32, evaluate_every=400)),
            "emoji-crisp": (crisp, LoopConfig(steps=800, batch_size=32, evaluate_every=200)),
        }


class CodebookEMA:
    """The codebook as a moving average of the latents that chose each code.

    Codes can have prices (Chou, Lookabaugh and Gray, "Entropy-Constrained Vector Quantization",
    1989): a latent then takes the code of the least squared distance plus price. The price stands
    in the code's last coordinate, as its root, where every latent has a 0: so the nearest code is
    the right one, for whoever looks for it, and a codebook with prices is like any other.
    """

    def __init__(self, codebook: Tensor, decay: float):
        self.decay = decay
        self.counts = torch.ones_like(codebook[:, 0])  # (K,) latents per code and step
        self.sums = codebook.detach().clone()  #                               (K, d) their sum
        self.error = codebook.new_zeros(())  # mean ‖z − e‖², without the prices

    def update(
        self, codebook: Tensor, latents: Tensor, ids: Tensor, accelerator: Accelerator
    ) -> None:
        """Move the codebook (K, d) in place towards the latents (M, d) that chose the ids (M,)."""
        counts = torch.bincount(ids, minlength=codebook.shape[0]).to(latents)
        sums = torch.zeros_like(codebook).index_add_(0, ids, latents)
        counts, sums = accelerator.reduce(counts), accelerator.reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        error = (latents[:, :-1] - codebook[ids, :-1]).square().sum(1).mean()
        self.error.lerp_(accelerator.reduce(error, "mean"), 1 - self.decay)
        codebook.copy_(self.sums / self.counts.clamp(min=1e-5)[:, None])

    def set_prices(self, codebook: Tensor, rate: float) -> None:
        """Let a code cost `rate` times the mean error for each nat of −ln its share."""
        shares = self.counts / self.counts.sum()
        nats = -shares.clamp(min=1 / (8 * len(shares))).log()  # (K,) no code is out of reach
        codebook[:, -1] = (rate * self.error * nats).sqrt()

    def revive(
        self, codebook: Tensor, latents: Tensor, below: float, generator: torch.Generator
    ) -> int:
        """Put dead codes onto latents (M, d) drawn at random; return how many were dead."""
        dead = (self.counts < below).nonzero().flatten()
        chosen = torch.randint(len(latents), (len(dead),), generator=generator)
        codebook[dead] = latents[chosen.to(latents.device)]
        self.counts[dead] = 1.0
        self.sums[dead] = codebook[dead]
        return len(dead)


class VQGANTask:
    """Reconstruct pictures through the codebook.

    sources: pictures to train on, and held out, in the place of what `config.data` names.
    """

    def __init__(
        self,
        config: VQGANTrainConfig,
        loop: LoopConfig,
        sources: tuple[Source, Source] | None = None,
    ):
        self.config, self.loop = replace(config, data=GIVEN) if sources else config, loop
        with torch.random.fork_rng():
            torch.manual_seed(loop.seed)
            self.model = VQGAN(config.vqgan).to(memory_format=torch.channels_last)
            self.losses = VQGANLoss(config.losses)
        self.judge = self.losses.discriminator_optimizer()
        self.codebook = self.model.quantize.embedding.weight  # (K, d) learns by moving average
        self.codebook.requires_grad_(False)
        if config.rate:
            self.make_room_for_prices()
        self.given_prices: Tensor | None = None  # (K,) those of `init`, if it has any
        self.learned_codes = self.go_on_from(config.init) if config.init else 0
        if config.freeze_tokens:
            self.check_freeze()
            self.model.encoder.requires_grad_(False)
            self.model.quant_conv.requires_grad_(False)
        self.train_data, self.validation = sources or open_source(
            config.data, config.vqgan.resolution, loop.seed
        )
        self.ema: CodebookEMA | None = None  # from the first batch's latents on
        self.verdict: dict[str, Tensor] = {}  # the discriminator's figures, of the step before

    def go_on_from(self, init: str) -> int:
        """Take the weights of a trained VQGAN, and its codes as the first ones; return how many."""
        folder = locate(init)
        self.config = replace(self.config, init=with_commit(init, folder))
        learned = load_vqgan(folder).state_dict()
        if self.config.rate:
            learned = with_place_for_prices(learned, self.config.vqgan.embed_dim)
        codes = learned["quantize.embedding.weight"]
        k, d = self.codebook.shape
        if len(codes) > k or codes.shape[1] != d:
            raise ValueError(
                f"init {init} has {len(codes)} codes of length {codes.shape[1]}; "
                f"a run of {k} codes of length {d} cannot go on from it"
            )
        self.codebook.data[: len(codes)] = codes
        if self.config.rate and codes[:, -1].any():
            self.given_prices = self.codebook[:, -1].clone()
        learned["quantize.embedding.weight"] = self.codebook.data
        self.model.load_state_dict(learned)
        return len(codes)

    def make_room_for_prices(self) -> None:
        """Let the last coordinate of every latent be 0, and stay so."""

        def without_last(gradient: Tensor) -> Tensor:
            gradient = gradient.clone()
            gradient[-1] = 0
            return gradient

        for parameter in self.model.quant_conv.parameters():
            parameter.data[-1] = 0
            parameter.register_hook(without_last)

    def check_freeze(self) -> None:
        """Raise ValueError unless `init` brought all the codes: tokens of others are not kept."""
        codes = self.config.vqgan.n_embed
        if self.learned_codes < codes:
            found = self.config.init or "empty"
            raise ValueError(
                f"freeze_tokens keeps the tokens of init, which is {found} and brings "
                f"{self.learned_codes} of {codes} codes; set init, and vqgan.n_embed to its codes"
            )

    def __len__(self) -> int:
        return len(self.train_data)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return [torch.optim.AdamW(trained, lr=self.config.lr, betas=(0.9, 0.99), weight_decay=1e-4)]

    def batch(self, step: int, indices: Tensor, generators: Generators) -> dict[str, Any]:
        self.step = step
        images = self.train_data.pictures(indices)
        if step < self.config.jitter_until * self.loop.steps:
            images = jitter(images, self.config.max_shift, generators)
        return {"images": images}

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """How well a batch of pictures is drawn again, by all parts of the loss."""
        images = batch["images"].to(memory_format=torch.channels_last)
        if self.ema is None:
            self.start_codebook(images)
        output: VQGANOutput = model(images)
        self.losses.to(images.device)
        self.seen = (output.latents.float(), output.ids)
        self.judged = (images, output.reconstruction.detach())
        last_layer = self.model.decoder.conv_out.weight
        total, terms = self.losses.generator_terms(images, output, self.step, last_layer)
        return total, terms | self.verdict | self.train_data.figures()

    @torch.no_grad()
    def start_codebook(self, images: Tensor) -> None:
        """Start the codes that are not learned yet from encoder outputs, drawn at random."""
        fresh = self.codebook[self.learned_codes :]
        if len(fresh):
            latents = in_batch_order(self.model.encode_latents(images).float()).flatten(0, 1)
            generator = torch.Generator().manual_seed(self.loop.seed)
            chosen = torch.randint(len(latents), (len(fresh),), generator=generator)
            fresh.copy_(latents[chosen.to(latents.device)])
        self.ema = CodebookEMA(self.codebook, self.config.ema_decay)

    def after_step(self, step: int, accelerator: Accelerator) -> None:
        """Let the discriminator learn, and the codebook follow the latents."""
        loss, self.verdict = self.losses.discriminator_terms(*self.judged, step)
        if loss is not None:
            rate = self.config.losses.discriminator_lr * learning_rate_factor(step, self.loop)
            discriminator_step(self.losses.discriminator, self.judge, loss, rate)
        if not self.config.freeze_tokens:
            self.move_codebook(step, accelerator)
        if isinstance(self.train_data, ShardStream):
            self.train_data.after_step(accelerator)

    @torch.no_grad()
    def move_codebook(self, step: int, accelerator: Accelerator) -> None:
        """Take the codes a step towards their latents, and revive dead ones."""
        latents, ids = self.seen  # (B, N, d), (B, N)
        self.ema.update(self.codebook, latents.flatten(0, 1), ids.flatten(), accelerator)
        if self.config.rate:
            self.move_prices(step / self.loop.steps)
        early = step < self.config.revive_until * self.loop.steps
        if early and step % self.config.revive_every == 0:
            generator = torch.Generator().manual_seed(step)
            everywhere = in_batch_order(latents).flatten(0, 1)
            self.ema.revive(self.codebook, everywhere, self.config.revive_below, generator)

    def move_prices(self, progress: float) -> None:
        """Let prices rise from a tenth of the run to its half, or keep those given up to a tenth.

        Before that little is known of how often each code is chosen.
        """
        if self.given_prices is None:
            risen = min(max((progress - 0.1) / 0.4, 0.0), 1.0)
            self.ema.set_prices(self.codebook, risen * self.config.rate)
        elif progress < 0.1:
            self.codebook[:, -1] = self.given_prices
        else:
            self.ema.set_prices(self.codebook, self.config.rate)

    def sample_names(self, indices: Tensor) -> list[str]:
        return self.train_data.names(indices)

    def evaluate(self, samples: Path) -> dict[str, float]:
        images = some_pictures(self.validation)
        pictures = images[:8] / 255
        drawn = self.model.decode(self.model.encode(pictures.to(self.codebook.device))).cpu()
        image_grid([to_pil(image) for image in [*pictures, *drawn]], len(pictures)).save(
            samples / "reconstructions.png"
        )
        return evaluate_vqgan(self.model, images)

    def export(self, folder: Path) -> None:
        native.save(folder, vqgan=self.model)

    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self.ema, name) for name in ("counts", "sums", "error")}
        if self.judge is not None:
            state["discriminator"] = self.losses.discriminator.state_dict()
            state["discriminator_optimizer"] = self.judge.state_dict()
        if isinstance(self.train_data, ShardStream):
            state["data"] = self.train_data.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if isinstance(self.train_data, ShardStream):
            self.train_data.load_state_dict(state["data"])
        self.ema = CodebookEMA(self.codebook, self.config.ema_decay)
        self.ema.counts, self.ema.sums, self.ema.error = (
            state[name].to(self.codebook.device) for name in ("counts", "sums", "error")
        )
        if self.judge is not None:
            self.losses.to(self.codebook.device)
            self.losses.discriminator.load_state_dict(state["discriminator"])
            self.judge.load_state_dict(state["discriminator_optimizer"])


def with_place_for_prices(learned: dict[str, Tensor], d: int) -> dict[str, Tensor]:
    """A VQGAN's weights with codes of d coordinates, the last for prices.

    Codes of d − 1 get one more; codes of d must have prices already, since the place of another
    meaning cannot be taken. Raises ValueError for such.
    """
    place = "quant_conv.weight"
    if len(learned[place]) == d - 1:
        wider = {"quantize.embedding.weight": (0, 1), "post_quant_conv.weight": (0, 0, 0, 0, 0, 1)}
        wider |= {place: (0, 0, 0, 0, 0, 0, 0, 1), "quant_conv.bias": (0, 1)}
        return learned | {name: F.pad(learned[name], sides) for name, sides in wider.items()}
    if len(learned[place]) == d and learned[place][-1].count_nonzero():
        raise ValueError(
            f"init has codes of {d} coordinates and no prices, for which rate needs one more: "
            f"set vqgan.embed_dim to {d + 1}, or rate to 0"
        )
    return learned


def jitter(images: Tensor, max_shift: int, generators: Generators) -> Tensor:
    """Pictures (B, 3, S, S), each moved by up to `max_shift` pixels, half of them mirrored."""
    s = images.shape[-1]
    moved = []
    for image, generator in zip(
        F.pad(images, [max_shift] * 4, mode="replicate"), generators, strict=True
    ):
        y, x = torch.randint(2 * max_shift + 1, (2,), generator=generator).tolist()
        image = image[:, y : y + s, x : x + s]
        mirror = bool(torch.rand((), generator=generator) < 0.5)
        moved.append(image.flip(2) if mirror else image)
    return torch.stack(moved)
