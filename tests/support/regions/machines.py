"""Machines that a test makes on this one: namespaces of Linux with a network, processes, folders
and an SSH server of their own.

    laptop, m1, m2, m3      a process that holds the namespaces together, as `init` does
        eth0 ---- bridge    in a network namespace of its own, so that nothing shows outside

When a holder dies, the kernel ends all processes of its machine and removes its network; holders
die with the process of the test. So nothing is left behind, however a test ends. Every machine has
its own home, /tmp, /dev/shm and /run; the rest of the file system is this machine's, which saves
a second installation. `SHARED` is one folder for all of them, as a network drive would be.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NETWORK = "10.77.0"
HOME = Path("/srv/owner")
SHARED = Path("/srv/shared")
PROGRAMS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "rsync": "rsync",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "unshare": "util-linux",
}
"""What is needed, and the Debian package that has it."""

_UNSHARE = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
_DIE_WITH_TEST = ["setpriv", "--pdeathsig", "KILL"]
_START_TIMEOUT_S = 20.0
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_INIT = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /srv
mkdir -p {home} {shared} {shared}
mount --bind "$ROOT/home" {home}
mount --bind "$SHARED" {shared}
mount --bind "$ROOT/passwd" /etc/passwd
mount --bind "$ROOT/hosts" /etc/hosts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
hostname "$NAME"
ip link set lo up
mount --bind "$ROOT/tmp" /tmp
chmod 1777 /tmp
cd /
if [ "$SERVES" = yes ]; then
    $(command -v sshd) -f {home}/.ssh/sshd_config -E {home}/.ssh/sshd.log
fi
touch {home}/.started
# The init process takes in whoever has lost its parent.
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""

_SSHD = f"""
ListenAddress 0.0.0.0
HostKey {HOME}/.ssh/host_key
AuthorizedKeysFile {HOME}/.ssh/authorized_keys
PidFile {HOME}/.ssh/sshd.pid
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
StrictModes no
AcceptEnv none
"""


def missing() -> str | None:
    """Why machines cannot be made here; None when they can."""
    gone = sorted({package for name, package in PROGRAMS.items() if shutil.which(name) is None})
    if gone:
        return f"needs the packages {', '.join(gone)}"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    tried = subprocess.run([*_UNSHARE, "mount", "--make-rprivate", "/"], capture_output=True)
    if tried.returncode:
        return f"namespaces are not allowed here: {tried.stderr.decode().strip()}"
    return None


@dataclass
class Machine:
    """One machine. It keeps its home when it is lost and started again."""

    name: str
    number: int
    root: Path
    shared: Path
    network: _Bridge
    serves_ssh: bool = True
    _holder: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def home(self) -> Path:
        """Its home folder, as this machine sees it."""
        return self.root / "home"

    def start(self) -> None:
        (self.home / ".started").unlink(missing_ok=True)
        env = {
            "PATH": _SYSTEM_PATH,
            "ROOT": str(self.root),
            "SHARED": str(self.shared),
            "NAME": self.name,
            "SERVES": "yes" if self.serves_ssh else "no",
        }
        script = _INIT.format(home=HOME, shared=SHARED)
        with (self.root / "init.log").open("ab") as log:
            self._holder = subprocess.Popen(
                [*_DIE_WITH_TEST, *_UNSHARE, "bash", "-c", script],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        _wait_for(lambda: (self.home / ".started").exists(), f"{self.name} to start")
        self.network.connect(self)

    @property
    def pid(self) -> int:
        """Of its init process."""
        assert self._holder is not None, f"{self.name} does not run"
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text()
        return int(children.split()[0])

    def lose(self) -> None:
        """As if its power were cut: no process ends tidily, no connection is closed."""
        assert self._holder is not None
        self.network.cut(self)
        os.kill(self.pid, signal.SIGKILL)
        self._holder.wait()
        self._holder = None

    def stop(self) -> None:
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
            self._holder = None

    def run(
        self,
        command: str,
        *,
        timeout_s: float = 60,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a login shell in the machine's home."""
        done = subprocess.run(
            self.command(command), env=self.env(env), capture_output=True, text=True,
            timeout=timeout_s, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(
                f"{self.name}: `{command}` ended with {done.returncode}\n"
                f"{done.stdout}\n{done.stderr}"
            )
        return done

    def command(self, command: str) -> Sequence[str]:
        """What runs `command` there from here."""
        enter = ["nsenter", "--target", str(self.pid), "--all", f"--wdns={HOME}"]
        return [*enter, "bash", "--login", "-c", command]

    def on_its_network(self, command: Sequence[str]) -> Sequence[str]:
        """What runs a program of this machine so that it sees the network as that one does."""
        return ["nsenter", "--target", str(self.pid), "--net", *command]

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        # Without a terminal's name, `ray exec` would have the commands print in colours.
        named = {"PATH": _SYSTEM_PATH, "HOME": str(HOME), "LANG": "C.UTF-8", "TERM": "dumb"}
        return {**named, **(more or {})}

    def processes(self, text: str = "") -> list[str]:
        """The command lines of its processes but the init's and sshd's own."""
        listed = self.run("ps -ww -e -o args=").stdout.splitlines()
        ignored = ("bash -c", "bash --login", "sleep 3600", "ps -ww", "sshd: ", "/usr/sbin/sshd")
        return [line for line in listed if text in line and not line.startswith(ignored)]

    def pids(self, *names: str) -> dict[str, list[int]]:
        """The pids of the programs of these names, as this machine's kernel numbers them there."""
        listed = [line.split() for line in self.run("ps -e -o pid=,comm=").stdout.splitlines()]
        return {name: [int(pid) for pid, *comm in listed if comm[0] == name] for name in names}


class _Bridge:
    """The network between the machines."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            [*_DIE_WITH_TEST, "unshare", "--net", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
        )
        own = os.readlink("/proc/self/ns/net")
        pid = self._holder.pid
        _wait_for(lambda: os.readlink(f"/proc/{pid}/ns/net") != own, "the network to start")
        self._do("ip link add bridge type bridge && ip link set bridge up")

    def connect(self, machine: Machine) -> None:
        port, mac = f"to-{machine.name}", f"02:00:00:00:00:{machine.number:02x}"
        self._do(
            f"ip link del {port} 2> /dev/null;"
            f"ip link add {port} type veth peer name eth0 address {mac} netns {machine.pid} &&"
            f"ip link set {port} master bridge up"
        )
        inside = (
            f"ip addr add {machine.address}/24 dev eth0 && ip link set eth0 up &&"
            f"ip route add default via {NETWORK}.254"
        )
        subprocess.run(["nsenter", "-t", str(machine.pid), "-n", "sh", "-c", inside], check=True)

    def cut(self, machine: Machine) -> None:
        self._do(f"ip link set to-{machine.name} down")

    def mend(self, machine: Machine) -> None:
        self._do(f"ip link set to-{machine.name} up")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def _do(self, command: str) -> None:
        enter = ["nsenter", "--target", str(self._holder.pid), "--net"]
        subprocess.run([*enter, "sh", "-c", command], check=True)


@contextmanager
def machines(folder: Path, names: Sequence[str]) -> Iterator[list[Machine]]:
    """A laptop and machines of these names, in this order; the laptop's key opens all of them."""
    shared = folder / "shared"
    shared.mkdir(parents=True)
    network = _Bridge()
    made: list[Machine] = []
    try:
        all_names = ["laptop", *names]
        for number, name in enumerate(all_names, start=10):
            root = folder / name
            machine = Machine(name, number, root, shared, network, serves_ssh=name != "laptop")
            _furnish(machine, all_names)
            made.append(machine)
        key = made[0].home / ".ssh" / "id_ed25519"
        _make_key(key)
        for machine in made:
            ssh = machine.home / ".ssh"
            shutil.copy(key.with_suffix(".pub"), ssh / "authorized_keys")
            machine.start()
        yield made
    finally:
        for machine in made:
            machine.stop()
        network.close()


def copy_checkout(machine: Machine, checkout: str, edits: Mapping[str, Mapping[str, str]]) -> None:
    """This repository's files, as far as they are installed, in the machine's home. `edits` are
    made in them as a user would: by file, what is to be replaced by what.
    """
    root = Path(__file__).resolve().parents[3]
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in files.splitlines():
        if (root / name).is_file() and not name.startswith(("bench/", "docs/", "tests/")):
            target = machine.home / checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target)
    for name, replacements in edits.items():
        file = machine.home / checkout / name
        text = file.read_text()
        for old, new in replacements.items():
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        file.write_text(text)


def give_installation(machine: Machine, checkout: str) -> None:
    """The virtual environment that `make setup` would make in the folder `checkout` of the
    machine's home, with the packages of this one's; Raygion itself comes from that folder.
    """
    venv = machine.home / checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    inside = HOME / checkout
    # It names the folder as it is seen from here, which the machine's own /tmp hides.
    activate = venv / "bin" / "activate"
    activate.write_text(activate.read_text().replace(str(venv), str(inside / ".venv")))
    packages = next(path for path in sys.path if (Path(path) / "ray" / "__init__.py").is_file())
    site = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (site / "checkout.pth").write_text(f"{inside}\n{packages}\n")
    for name, module in (("raygion", "deployments.cli.main"), ("ray", "ray.scripts.scripts")):
        program = venv / "bin" / name
        program.write_text(
            f"#!{inside}/.venv/bin/python\nimport sys\nfrom {module} import main\n"
            "if __name__ == '__main__':\n    sys.exit(main())\n"
        )
        program.chmod(0o755)
    # As `make` leaves it: newer than the lock that is copied there later.
    (venv / ".ready").touch()


def _furnish(machine: Machine, names: Sequence[str]) -> None:
    for folder in (machine.home / ".ssh", machine.root / "tmp"):
        folder.mkdir(parents=True)
    lines = Path("/etc/passwd").read_text().splitlines()
    others = [line for line in lines if not line.startswith("root:")]
    root = f"root:x:0:0:root:{HOME}:/bin/bash"
    (machine.root / "passwd").write_text("\n".join([root, *others]) + "\n")
    hosts = [f"{NETWORK}.{number} {name}" for number, name in enumerate(names, start=10)]
    (machine.root / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")
    for skeleton in (".profile", ".bashrc"):
        if (source := Path("/etc/skel") / skeleton).is_file():
            shutil.copy(source, machine.home / skeleton)
    (machine.home / ".bashrc").touch()
    ssh = machine.home / ".ssh"
    (ssh / "sshd_config").write_text(_SSHD)
    _make_key(ssh / "host_key")


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {_START_TIMEOUT_S:g} s for {what}"
        time.sleep(0.02)
