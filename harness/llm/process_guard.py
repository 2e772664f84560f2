"""Run a command on a leash: however the harness ends, the command and all its children end with it.

Run as a script by :mod:`harness.llm.vllm_server`, on the standard library alone: ``leash.py GRACE_SECONDS COMMAND...``.
The leash is its standard input, a pipe whose other end only the harness holds. The kernel closes it even when the
harness is killed with SIGKILL, and on every Unix, which is why it is preferred to a parent-death signal: that one is
Linux's alone, and also fires when merely the thread that started the process ends.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

POLL_S = 0.2
KILL_WAIT_S = 10.0  # processes stuck in a driver can take a while to die, even of SIGKILL
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    # Only matters if the leash itself is killed with SIGKILL; the server then takes its own children down.
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_empty(group: int) -> bool:
    """Bury the dead, orphans included, and tell whether nobody is left in the process group."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return False


def _end(group: int, grace_s: float) -> None:
    for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_WAIT_S)):
        if _is_empty(group):
            return
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and not _is_empty(group):
            time.sleep(POLL_S / 4)


def main() -> int:
    """Run the command; return its exit status, or 0 if it was ended because the leash went slack."""
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    told_to_stop = False

    def stop(number: int, frame: object) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_die_with_parent)
    status: int | None = None
    while status is None and not told_to_stop:
        if select.select([0], [], [], POLL_S)[0]:  # nobody ever writes: readable means closed
            break
        status = process.poll()
    # A server that died may leave its engine behind, which holds the GPU's memory.
    _end(process.pid, grace_s)
    if status is None:
        return 0
    return status if status >= 0 else 128 - status  # as a shell tells of a signal


if __name__ == "__main__":
    sys.exit(main())
