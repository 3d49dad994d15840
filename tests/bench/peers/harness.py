"""What the side-by-side benches share: servers as processes, what they use, the table of rows."""

import argparse
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def process_tree(root: int) -> dict[int, list[str]]:
    """A process and all that descend from it, with the fields of /proc/PID/stat after the name."""
    fields = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # It has just ended.
            continue
        fields[int(stat.parent.name)] = text[text.rindex(")") + 2 :].split()
    tree = {}
    for process in fields:
        ancestor = process
        while ancestor not in (root, 0, 1):
            ancestor = int(fields[ancestor][1]) if ancestor in fields else 0
        if ancestor == root:
            tree[process] = fields[process]
    return tree


def tree_cpu_seconds(root: int) -> float:
    """Processor time of a process and all that descend from it, ended children included."""
    ticks = sum(int(tick) for fields in process_tree(root).values() for tick in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def tree_resident_mebibytes(root: int) -> float:
    """Resident memory of a process and all that descend from it; what they share counts once."""
    kibibytes = 0
    for process in process_tree(root):
        try:
            lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kibibytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kibibytes / 1024


def disk_mebibytes(folder: pathlib.Path) -> float:
    """What a folder's files take on the disk; holes take nothing."""
    files = (path.lstat() for path in folder.rglob("*") if path.is_file())
    return sum(512 * file.st_blocks for file in files) / (1 << 20)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length, head = len(payload), bytes([number << 3 | 2])
    while length > 0x7F:
        head += bytes([length & 0x7F | 0x80])
        length >>= 7
    return head + bytes([length]) + payload


def write_messages(path: pathlib.Path, messages: Iterable[bytes]) -> pathlib.Path:
    """A file as the load generators read them."""
    with path.open("wb") as file:
        for message in messages:
            file.write(len(message).to_bytes(4, "little") + message)
    return path


class DidNotStart(SystemExit):
    """A server ended, or was late, before it served."""


class Server:
    """A server as a process of its own."""

    def __init__(
        self,
        name: str,
        command: list,
        folder: pathlib.Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Starts it with `folder` as its working folder."""
        self.name = name
        self.client: list = []  # The command of a load generator.
        self.log = folder / f"{name}-{free_port()}.log"
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )

    def wait_until(
        self, is_ready: Callable[[], bool], seconds: float = 600, pause: float = 0.1
    ) -> None:
        """Ends the program, with the log, when the server ends before or is late. Asks every `pause`
        seconds, later after a hundredth of the time that has passed."""
        begin = time.monotonic()
        while time.monotonic() < begin + seconds:
            if is_ready():
                return
            if self.process.poll() is not None:
                break
            time.sleep(max(pause, (time.monotonic() - begin) / 100))
        self.stop()
        raise DidNotStart(f"{self.name} did not start:\n{self.log.read_text()[-3000:]}")

    def wait_for(self, text: str) -> None:
        """Until it has said `text`."""
        self.wait_until(lambda: text in self.log.read_text(), pause=0.01)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """kill -9 of all its processes."""
        tree = process_tree(self.process.pid)
        # The parent first: it might start others anew.
        for process in sorted(tree, key=lambda process: process != self.process.pid):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        while any(pathlib.Path(f"/proc/{process}").exists() for process in tree):
            time.sleep(0.005)

    def load(self, clients: int, seconds: float) -> dict:
        """One measurement."""
        before = tree_cpu_seconds(self.process.pid)
        result = run_load(
            self.name, [*self.client, "--in-flight", clients, "--seconds", seconds]
        )
        if not result["p50_ms"]:
            raise SystemExit(f"{self.name}: no call ended in time, give more --seconds")
        # Over all that was sent, the warm-up included.
        used = tree_cpu_seconds(self.process.pid) - before
        result["server_cpu_ms"] = 1e3 * used / result["calls"]
        return result


def start_quernd(
    binaries: pathlib.Path, name: str, folder: pathlib.Path, data: pathlib.Path, *settings: str
) -> tuple[Server, str]:
    """A quernd that is ready, and its address."""
    command = [binaries / "quernd"]
    for setting in ("server.address=127.0.0.1:0", "metrics.address=127.0.0.1:0",
                    "log.level=warning", f"storage.path={data}", *settings):
        command += ["--set", setting]
    server = Server(name, command, folder)
    server.wait_for("quernd ready")
    return server, server.log.read_text().split("address=")[1].split()[0]


def run_load(name: str, command: list) -> dict:
    """What a load generator printed. A call that failed is the end of the program."""
    output = subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    result = json.loads(output)
    if result["failed"]:
        raise SystemExit(f"{name}: {result['failed']} calls failed:\n{output}")
    return result


def print_row(row: dict) -> None:
    goal = ""
    if row["goal"] is not None:
        goal = f"{'>=' if row['better'] == 'higher' else '<='} {row['goal']}"
    print(f"{row['measure']:56} {row['value']:10.3f} {row['unit']:11} {goal}".rstrip(), flush=True)


class Table:
    """Rows of what was measured, as the other benches print and write them."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def add(
        self,
        measure: str,
        values: float | list[float],
        unit: str,
        goal: float | None = None,
        better: str = "lower",
    ) -> None:
        """Of several values the median counts."""
        value = statistics.median(values) if isinstance(values, list) else values
        self.rows.append(
            {"measure": measure, "value": value, "unit": unit, "goal": goal, "better": better}
        )

    def print(self) -> None:
        for row in self.rows:
            print_row(row)

    def print_last(self) -> None:
        print_row(self.rows[-1])

    def write(self, path: pathlib.Path) -> None:
        path.write_text(json.dumps(self.rows, indent=1) + "\n")


def parser(description: str) -> argparse.ArgumentParser:
    """With the options that each bench has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument(
        "--bin", type=pathlib.Path, required=True, help="folder of Quern's binaries"
    )
    options.add_argument("--json", type=pathlib.Path, help="file to write the rows to")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=4, help="of each measurement")
    return options
