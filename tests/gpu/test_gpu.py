"""Tests of the decomposition on a GPU, and on any machine of the script that measures it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("measure.py")
sys.path.insert(0, str(SCRIPT.parent))

from measure import MODELS, agrees, losses_against_float64, throughput  # noqa: E402 - a script in this folder

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")


@needs_gpu
def test_losses_on_a_gpu_agree_with_float64_on_the_cpu() -> None:
    wrong = [name for name, excess in losses_against_float64("cuda").items() if not agrees(excess)]
    assert wrong == []


@needs_gpu
def test_memory_suffices_at_the_shapes_of_real_models() -> None:
    seen = throughput(MODELS["gemma2_2b"], "cuda", vectors=256, channels=1)
    assert seen.projection_bytes < seen.peak_bytes < torch.cuda.get_device_properties(0).total_memory
    assert torch.isfinite(seen.losses).all()


@pytest.mark.slow
def test_the_script_runs_on_a_cpu() -> None:
    arguments = ["--device", "cpu", "--scale", "0.02", "--vectors", "8", "--channels", "1", "--models", "gemma2_2b"]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| ok |") == 4
    assert "| Gemma-2-2B (46 x 5120) | auto |" in done.stdout
    if not torch.cuda.is_available():
        refused = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=300)
        assert refused.returncode == 1
        assert "no CUDA GPU here" in refused.stdout
