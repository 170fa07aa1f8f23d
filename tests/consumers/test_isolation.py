"""The harness itself: consumers stay in their namespaces, and missing consumers are noticed."""

from pathlib import Path

import pytest

from .isolation import Isolation, isolated
from .requirements import REQUIRED, require

pytestmark = pytest.mark.consumers


def test_loopback_is_the_only_network(isolation: Isolation) -> None:
    """Without it a consumer could fetch from an outside registry what is missing in our stream."""
    links = isolation.run(["ip", "-brief", "link"])
    pinged = isolation.run(["ip", "route", "get", "127.0.0.1"])

    assert [line.split()[0] for line in links.stdout.splitlines()] == ["lo"]
    assert pinged.returncode == 0


@pytest.mark.usefixtures("isolation")
def test_nothing_is_left(tmp_path: Path) -> None:
    """Without it each test could leave its daemons, mounts and cgroups behind."""
    with isolated(tmp_path) as inner:
        inner.start(["sleep", "1000"], ready=lambda: True)
        inner.directory(f"/etc/{inner.cgroup}")
        inner.directory(f"/var/lib/{inner.cgroup}")
        cgroups = [
            Path(f"/sys/fs/cgroup/{inner.cgroup}"),
            Path(f"/sys/fs/cgroup/pids/{inner.cgroup}"),
        ]
        cgroup = next(path for path in reversed(cgroups) if path.parent.is_dir())
        (cgroup / "below").mkdir(parents=True)

    assert [daemon.returncode for daemon in inner.daemons] == [-9]
    assert not cgroup.exists()
    assert not Path(f"/etc/{inner.cgroup}").exists()
    assert not Path(f"/var/lib/{inner.cgroup}").exists()
    assert inner.cgroup not in Path("/proc/self/mountinfo").read_text()


def test_what_is_missing_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the suite could fail on machines without the consumers."""
    monkeypatch.delenv(REQUIRED, raising=False)

    with pytest.raises(pytest.skip.Exception, match="not installed: no-such-consumer"):
        require(["sh", "no-such-consumer"])


def test_what_is_missing_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it CI could stay green after it has lost a consumer."""
    monkeypatch.setenv(REQUIRED, "1")

    with pytest.raises(pytest.fail.Exception, match="not installed: no-such-consumer"):
        require(["sh", "no-such-consumer"])
