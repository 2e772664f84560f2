"""The same benchmark on neurons of a layer and on latents of a sparse autoencoder of its output.

``python tests/bench/sae.py FOLDER`` trains a TopK autoencoder of SmolLM2 on news, writes it to FOLDER/sae in the format
of SAELens, prints its quality on documents that it was not trained on, and makes two runs in FOLDER that differ in
``subject.sae`` and ``neurons.indices``. Token judges, no LLM. Latents that are never active on those documents are left
out. A second start continues.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel

from harness.run.help import compose_config
from harness.run.setup import Setup
from harness.seeds import derive_rng
from harness.subject.latents import Place
from harness.subject.modules import Modules, load_model

WINDOW, BATCH, RATE = 64, 1024, 1e-3
COMMON = ("subject=smollm2", "corpus=news")
RUN = (
    *COMMON,
    *(
        "describers=[rotate,maxact,vocab_proj,shuffled,generic]",
        "judges=[token_pairwise,token_simulation,token_output]",
    ),
    *("neurons=listed", "neurons.kinds=[in,out]", "decomposition.num_channels=4", "tracking=none", "quiet=true"),
    *("evidence.top=12", "evidence.random=12", "diagnostics.sample=0", "diagnostics.random_vectors=2"),
    *("diagnostics.text_ablated=0", "steering.effects.prompts=4", "steering.effects.values=[1]"),
    *("steering.effects.unit=peak",),
)


def hidden_states(setup: Setup, texts: Iterable[str], layer: int, count: int) -> Tensor:
    """Return ``count`` hidden states after a layer (count, d_model), from windows of 64 tokens."""
    model = load_model(setup.subject, AutoModel)
    modules = Modules(setup.subject, model)
    del modules.layers()[layer + 1 :]
    kept: list[Tensor] = []
    modules.hook(layer, Place.AFTER, lambda hidden: kept.append(hidden.flatten(0, 1).clone()))
    windows: list[list[int]] = []
    for text in texts:
        ids = setup.subject.tokenizer(text).input_ids
        windows += [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
        if len(windows) * WINDOW >= count:
            break
    with torch.inference_mode():
        for start in range(0, len(windows), 32):
            model(input_ids=torch.tensor(windows[start : start + 32]))
    return torch.cat(kept)[:count].clone()


def layer_normed(hidden: Tensor) -> Tensor:
    """Return hidden states normalised as by SAELens (``layer_norm``)."""
    centred = hidden - hidden.mean(dim=1, keepdim=True)
    return centred / (centred.std(dim=1, keepdim=True) + 1e-5)


def encoded(t: dict[str, Tensor], x: Tensor, k: int) -> Tensor:
    """Return the activations of all latents, (tokens, latents)."""
    before = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    top = before.topk(k, dim=1)
    return torch.zeros_like(before).scatter(1, top.indices, top.values.relu())


def trained(x: Tensor, latents: int, k: int, epochs: int) -> dict[str, Tensor]:
    """Train an autoencoder; decoder rows have norm 1, and latents that have died learn from the error."""
    generator = torch.Generator().manual_seed(0)
    decoder = normalize(torch.randn(latents, x.shape[1], generator=generator), dim=1)
    t = {"W_enc": decoder.T.clone(), "b_enc": torch.zeros(latents), "W_dec": decoder, "b_dec": x.mean(dim=0)}
    optimizer = torch.optim.Adam([tensor.requires_grad_() for tensor in t.values()], lr=RATE)
    steps, step, last_active = epochs * (len(x) // BATCH), 0, torch.zeros(latents)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)[: len(x) // BATCH * BATCH]
        for rows in torch.split(order, BATCH):
            batch = x[rows]
            activations = encoded(t, batch, k)
            last_active[(activations > 0).any(dim=0)] = step
            error = batch - activations @ t["W_dec"] - t["b_dec"]
            loss = error.square().sum(dim=1).mean()
            dead = (step - last_active > 30).nonzero().flatten()
            if len(dead) > k:
                before = (batch - t["b_dec"]) @ t["W_enc"][:, dead] + t["b_enc"][dead]
                top = before.topk(k, dim=1)
                again = torch.zeros_like(before).scatter(1, top.indices, top.values.relu())
                loss = loss + (error.detach() - again @ t["W_dec"][dead]).square().sum(dim=1).mean() / 32
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, 5 * (1 - step / steps))
            with torch.no_grad():
                t["W_dec"].copy_(normalize(t["W_dec"], dim=1))
    return {name: tensor.detach() for name, tensor in t.items()}


def train(setup: Setup, given: argparse.Namespace) -> None:
    """Train an autoencoder, write it, and write its quality on documents that it was not trained on."""
    start = time.process_time()
    assert setup.corpus is not None
    judged = {document.id for document in setup.corpus.documents(given.documents)}
    others = [document.text for document in setup.corpus.documents(400) if document.id not in judged]
    held_out = layer_normed(hidden_states(setup, others[:30], given.layer, 8192))
    x = layer_normed(hidden_states(setup, others[30:], given.layer, given.tokens))
    print(f"{len(x):,} hidden states after {time.process_time() - start:.0f} CPU seconds", flush=True)
    t = trained(x, given.latents, given.k, given.epochs)
    folder = given.folder / "sae"
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": "topk",
        "k": given.k,
        "d_in": x.shape[1],
        "d_sae": given.latents,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "layer_norm",
        "metadata": {"hook_name": f"blocks.{given.layer}.hook_resid_post", "model_name": setup.subject.name},
    }
    (folder / "cfg.json").write_text(json.dumps(config, indent=1))
    save_file({name: tensor.contiguous() for name, tensor in t.items()}, folder / "sae_weights.safetensors")
    # The first token of a window, which attention uses as a sink, is easy to reconstruct: it does not count.
    held_out = held_out[torch.arange(len(held_out)) % WINDOW != 0]
    activations = encoded(t, held_out, given.k)
    error = (held_out - activations @ t["W_dec"] - t["b_dec"]).square().sum()
    active = (activations > 0).float()
    quality = {
        "explained variance": round(1 - float(error / (held_out - held_out.mean(dim=0)).square().sum()), 3),
        "L0": round(float(active.sum(dim=1).mean()), 1),
        "hidden states": len(x),
        "CPU seconds": round(time.process_time() - start),
        "alive": (active.sum(dim=0) > 0).nonzero().flatten().tolist(),
    }
    (given.folder / "quality.json").write_text(json.dumps(quality))


def main() -> None:
    """Train unless FOLDER has an autoencoder, and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=80_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--units", type=int, default=24)
    parser.add_argument("--documents", type=int, default=64)
    given = parser.parse_args()
    setup = Setup.of(compose_config([*COMMON, f"neurons.layers=[{given.layer}]"]))
    if not (given.folder / "quality.json").exists():
        train(setup, given)
    quality = json.loads((given.folder / "quality.json").read_text())
    alive = quality.pop("alive")
    print(quality, f"{len(alive)} latents active", flush=True)
    rng = derive_rng(0, "bench", given.layer)
    for name, sae, units in (("neurons", "null", range(setup.subject.d_mlp)), ("latents", given.folder / "sae", alive)):
        indices = sorted(rng.choice(list(units), given.units, replace=False).tolist())
        options = [f"folder={given.folder / name}", f"name={name}", f"subject.sae={sae}", f"neurons.indices={indices}"]
        options += [f"neurons.layers=[{given.layer}]", f"evidence.max_documents={given.documents}", *RUN]
        program = [sys.executable, "-c", "from harness.run.main import main; main()"]
        subprocess.run([*program, *(option.replace(" ", "") for option in options)], check=True)
        print((given.folder / name / "leaderboard.md").read_text(), flush=True)


if __name__ == "__main__":
    main()
