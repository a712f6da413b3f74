"""What the tests of training share: the smallest task that has all that the loop looks at, a few
pictures, and a way to die."""

import json
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import nn

from minidalle.data.emoji import EmojiDataset
from minidalle.training.loop import LoopConfig

LOOP = LoopConfig(
    steps=8, batch_size=4, warmup_steps=2, precision="no",
    log_every=1, evaluate_every=3, save_every=3,
)  # fmt: skip


@dataclass(frozen=True)
class InnerConfig:
    width: int = 6
    sides: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class ToyConfig:
    inner: InnerConfig = field(default_factory=lambda: InnerConfig(width=5))
    lr: float = 0.05


class ToyModel(nn.Module):
    """Two layers, and buffers of both kinds, which change with every step."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))
        self.register_buffer("level", torch.zeros(2))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return self.layers(x)[:, 0]


class ToyTask:
    """Learn a function of three numbers from 24 examples."""

    splits_batches = True

    def __init__(self, config=None):
        self.config = config or ToyConfig()
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(24, 3, generator=generator)
        self.y = self.x.prod(1).tanh()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = ToyModel(self.config.inner.width)
        self.seen = []  # the numbers of the samples of each part
        self.history = []  # the state after every step
        self.evaluated, self.exported = [], []  # the state that each evaluation and export saw

    def __len__(self):
        return len(self.x)

    def optimizers(self):
        return [torch.optim.AdamW(self.model.parameters(), lr=self.config.lr)]

    def batch(self, step, indices, generators):
        return {"x": self.x[indices], "y": self.y[indices], "indices": indices}

    def loss(self, model, batch):
        self.seen.append(batch["indices"].tolist())
        return (model(batch["x"]) - batch["y"]).square().mean(), {"mean_y": batch["y"].mean()}

    def after_step(self, step, accelerator):
        self.model.level += step
        self.model.count += 1
        self.history.append(state_of(self.model))

    @torch.no_grad()
    def evaluate(self, samples):
        self.evaluated.append(state_of(self.model))
        return {"error": float((self.model(self.x) - self.y).square().mean())}

    def export(self, folder):
        self.exported.append(state_of(self.model))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_states(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@cache
def held_out() -> EmojiDataset:
    return EmojiDataset("validation")


class FewEmoji(EmojiDataset):
    """24 pictures to train on, 24 others held out: to decode thousands would take too long."""

    def __init__(self, split):
        part = slice(0, 24) if split == "train" else slice(24, 48)
        self.split = split
        self.records, self.images = held_out().records[part], held_out().images[part]


class Stop(Exception):
    pass


def stop_at(task, step):
    """Let the task die in the given step, as if killed."""
    after_step = task.after_step

    def dying(now, accelerator):
        if now == step:
            raise Stop
        after_step(now, accelerator)

    task.after_step = dying
    return task


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses_of(run):
    return [line["loss"] for line in lines_of(run) if "loss" in line]


def checkpoint_of(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)
