"""The decomposition on a real GPU; and, anywhere, that the script which measures it works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("measure.py")
sys.path.insert(0, str(SCRIPT.parent))

from measure import MODELS, agrees, losses_against_float64, throughput  # noqa: E402 - a script beside this file

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")


@needs_gpu
def test_a_gpu_finds_the_losses_of_float64_on_the_cpu_whatever_its_arithmetic() -> None:
    wrong = [name for name, excess in losses_against_float64("cuda").items() if not agrees(excess)]
    assert wrong == []


@needs_gpu
def test_a_gpu_stays_within_its_memory_at_the_shapes_of_whole_models() -> None:
    seen = throughput(MODELS["gemma2_2b"], "cuda", vectors=256, channels=1)
    assert seen.projection_bytes < seen.peak_bytes < torch.cuda.get_device_properties(0).total_memory
    assert torch.isfinite(seen.losses).all()


@pytest.mark.slow
def test_the_measuring_script_runs_and_checks_what_it_prints_on_a_cpu() -> None:
    arguments = ["--device", "cpu", "--scale", "0.02", "--vectors", "8", "--channels", "1", "--models", "gemma2_2b"]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| ok |") == 4
    assert "| Gemma-2-2B (46 x 5120) | auto |" in done.stdout
    if not torch.cuda.is_available():
        refused = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=300)
        assert refused.returncode == 1
        assert "no CUDA GPU here" in refused.stdout
