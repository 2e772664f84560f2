"""How long a command takes that does no work, relative to the import of Hydra, which every command needs.

Run it on a quiet machine: ``python tests/bench/startup.py``. Each command runs alternately with ``import hydra``; the
medians are compared.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "--help": ["--help"],
    "a wrong option": ["neurons.per_layer=2.5"],
    "a missing model": ["subject=local", "subject.sources=[./nowhere]", "tracking=none", "folder=/tmp/startup"],
    "a wrong option of a run with LLMs": [
        *("experiment=llm", "llm@llm.explainer=openai", "llm.explainer.model=m", "llm@llm.judge=openai"),
        *("llm.judge.model=m", "seed=abc"),
    ],
}
ROUNDS = 7


def seconds(arguments: list[str]) -> float:
    """Return the wall-clock time of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    print("| command | seconds | times `import hydra` |\n|---|---|---|")
    for name, command in COMMANDS.items():
        pairs = [(seconds(["-c", "import hydra"]), seconds(["-m", "harness", *command])) for _ in range(ROUNDS)]
        base, taken = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"| {name} | {taken:.2f} | {taken / base:.1f} |")


if __name__ == "__main__":
    main()
