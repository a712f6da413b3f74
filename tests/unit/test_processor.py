"""What is asked of a machine, and in which precision it computes where that is not said."""

from dataclasses import replace

import pytest
import torch
from training_helpers import LOOP, FewEmoji, ToyTask

from minidalle.bart import BartConfig
from minidalle.checkpoints import native
from minidalle.data import sources
from minidalle.processor import multiplies_bfloat16, multiplies_few_rows
from minidalle.training.bart import BartTask, BartTrainConfig
from minidalle.training.loop import train
from minidalle.training.schedule import LoopConfig, precision_of
from minidalle.vqgan import VQGAN, VQGANConfig

AUTO = LoopConfig()  # the default


@pytest.fixture(params=[True, False])
def fast(request, monkeypatch):
    """A processor with bfloat16, and one without."""
    known = {"avx2": True, "avx512_bf16": request.param}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    return request.param


def test_a_processor_tells_by_its_instructions(fast):
    assert multiplies_bfloat16("cpu") == multiplies_bfloat16(torch.device("cpu")) == fast


@pytest.mark.parametrize(
    ("there", "native", "expected"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_gpu_tells_whether_it_emulates(monkeypatch, there, native, expected):
    def supported(including_emulation=True):
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert multiplies_bfloat16("cuda:1") == expected


def test_an_older_torch_and_other_devices_mean_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not multiplies_bfloat16("cpu") and not multiplies_bfloat16("mps")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"cpu_name": "Intel Xeon", "avx2": True}, True),
        ({"cpu_name": "AMD EPYC", "avx2": True}, False),
        ({}, False),
    ],
)
def test_the_make_tells_whether_few_rows_are_fast(monkeypatch, known, expected):
    monkeypatch.setattr("minidalle.processor.capabilities", lambda: known)
    assert multiplies_few_rows.__wrapped__() == expected  # it is asked once only


def test_training_takes_what_is_fast_unless_told(fast):
    assert precision_of(AUTO) == ("bf16" if fast else "no")
    assert [precision_of(replace(AUTO, precision=p)) for p in ("no", "bf16")] == ["no", "bf16"]


class Seen(ToyTask):
    """Notes in what its model computes."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()
        self.model.layers[0].register_forward_hook(lambda m, i, out: self.dtypes.add(out.dtype))


def test_runs_of_different_precision_follow_each_other_in_one_process(fast, tmp_path, caplog):
    """As in a notebook; accelerate by itself keeps to the first."""
    auto = torch.bfloat16 if fast else torch.float32
    caplog.set_level("INFO")
    runs = [("no", torch.float32), ("bf16", torch.bfloat16), ("auto", auto), ("no", torch.float32)]
    for number, (precision, dtype) in enumerate(runs):
        task = Seen()
        train(task, replace(LOOP, precision=precision, steps=1), tmp_path / str(number))
        assert task.dtypes == {dtype}
        said = f"computing in {str(dtype).removeprefix('torch.')} on cpu"
        assert said in caplog.messages
        caplog.clear()


def test_the_blocks_optimizer_computes_in_the_same(fast, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "EmojiDataset", FewEmoji)
    native.save(tmp_path, vqgan=VQGAN(replace(VQGANConfig.tiny(), resolution=64, patch=4)))
    config = BartTrainConfig(vqgan=str(tmp_path), bart=BartConfig.tiny())
    for precision, dtype in (
        ("auto", torch.bfloat16 if fast else torch.float32),
        ("no", torch.float32),
        ("bf16", torch.bfloat16),
    ):
        task = BartTask(config, replace(AUTO, precision=precision))
        assert task.optimizers()[0].dtype == dtype
