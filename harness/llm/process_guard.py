"""Run a command and end it, with all its children, when the harness ends, however it ends.

:mod:`harness.llm.vllm_server` runs this file as a script, on the standard library alone:
``process_guard.py GRACE_SECONDS COMMAND...``. Standard input is a pipe whose other end only the harness holds. The
kernel closes it even if the harness is killed with SIGKILL, and on every Unix. A parent-death signal exists on Linux
only, and also fires when just the thread that started the process ends.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

POLL_S = 0.2
KILL_WAIT_S = 10.0  # processes blocked in a driver can take a while to die, even after SIGKILL
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    # Only matters if the guard itself is killed with SIGKILL; the server then ends its own children.
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_empty(group: int) -> bool:
    """Reap dead children, orphans included, and return whether the process group is empty."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # macOS raises it for a group of zombies
        return False
    return False


def _end(group: int, grace_s: float) -> None:
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_WAIT_S)):
        if _is_empty(group):
            return
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not _is_empty(group):
            time.sleep(POLL_S / 4)


def main() -> int:
    """Run the command; return its exit status, or 0 if the guard ended it."""
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_die_with_parent)
    status: int | None = None
    while status is None and not stopping:
        if select.select([0], [], [], POLL_S)[0]:  # nobody ever writes: readable means closed
            break
        status = process.poll()
    # A dead server may leave its engine process behind, which holds the GPU's memory.
    _end(process.pid, grace_s)
    if status is None:
        return 0
    return status if status >= 0 else 128 - status  # a shell's exit status for a signal


if __name__ == "__main__":
    sys.exit(main())
