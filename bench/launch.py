"""Run one pipeline into `cat > /dev/null`, and print its time and memory as JSON.

Usage: launch.py '[["tar", "-cf", "-", "x"], ["openssl", "sha256"]]'

A separate process, small on purpose: until it execs, a child is accounted the peak memory of its
parent, and the kernel remembers that. So import as little as possible, and run with `-I -S`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time


def launch(pipeline: list[list[str]]) -> dict[str, float]:
    """Run `pipeline` and measure it from the first spawn to the last exit."""
    null = os.open(os.devnull, os.O_RDWR)
    commands = [*pipeline, ["cat"]]
    pids = []
    begin = time.perf_counter()
    source = null
    for position, argv in enumerate(commands):
        is_last = position == len(pipeline)
        read_end, write_end = (null, null) if is_last else os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, write_end, 1)]
        pids.append(os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions))
        for end in {source, write_end} - {null}:
            os.close(
                end
            )  # or a reader would wait forever, and a writer not notice that its reader exited
        source = read_end
    usages = [wait(pid, argv) for pid, argv in zip(pids, commands, strict=True)][:-1]
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "peak_rss": max(usage.ru_maxrss for usage in usages) * 1024,
        "rss_floor": own_peak(),
        "disk_bytes": sum(usage.ru_inblock for usage in usages) * 512,
    }


def own_peak() -> int:
    """Return our own peak memory in bytes. Not from `getrusage`, which includes our parent's."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM"].split()[0]) * 1024


def wait(pid: int, argv: list[str]) -> resource.struct_rusage:
    """Wait for a command and return its resource usage. Exits if the command failed."""
    _, status, usage = os.wait4(pid, 0)
    if status:
        shown = " ".join(argv)[:200]
        sys.exit(f"exit status {os.waitstatus_to_exitcode(status)} of: {shown}")
    return usage


if __name__ == "__main__":
    print(json.dumps(launch(json.loads(sys.argv[1]))))
