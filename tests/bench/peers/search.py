"""Search by quernd, Redis Stack, Milvus and PostgreSQL with pgvector side by side: the same
vectors, the same queries, the same recall@10, two cores. Each peer runs beside quernd alone, in
rounds that alternate; every ratio of searches is a median over rounds. run.sh makes the
environment and the data that this needs."""

import argparse
import bisect
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable

import harness
from search_milvus import Milvus
from search_postgres import Postgres
from search_quernd import Quernd
from search_redis import Redis
from search_server import Data, SearchServer, Setup

CLIENTS = 8
DEFAULT_TARGET = 0.95  # quernd's own, unless it is told otherwise.
TARGETS = [DEFAULT_TARGET, 0.99]
WARM_UP_SECONDS = 1
MOST_RESTART_SECONDS = 3600
PEERS = ["redis", "milvus", "pgvector", "quernd-fp32"]


class Bench:
    def __init__(self, options: argparse.Namespace, folder: pathlib.Path) -> None:
        self.options, self.folder = options, folder
        self.data = Data.read(options.data)
        self.table = harness.Table()
        # What each server got, for the ratios: by server and measure.
        self.used: dict[str, dict[str, float]] = {}

    def run(self) -> harness.Table:
        quernd = self.make("quernd")
        try:
            self.fill(quernd)
            for name in self.options.only or PEERS:
                peer = self.make(name)
                try:
                    self.fill(peer)
                    self.compare_stores(name)
                    for target in TARGETS:
                        self.compare_searches(quernd, peer, target)
                finally:
                    end(peer)
        finally:
            end(quernd)
        return self.table

    def make(self, name: str) -> SearchServer:
        setup = Setup(self.data, self.options.bin, self.folder / name)
        makers: dict[str, Callable[[], SearchServer]] = {
            "quernd": lambda: Quernd(setup, self.options.proto, "INT8"),
            "quernd-fp32": lambda: Quernd(setup, self.options.proto, "FP32"),
            "redis": lambda: Redis(setup),
            "milvus": lambda: Milvus(setup),
            "pgvector": lambda: Postgres(setup),
        }
        return makers[name]()

    def add(self, measure: str, *values, **more) -> None:
        """A row, which is also shown at once: a run takes long."""
        self.table.add(measure, *values, **more)
        self.table.print_last()

    # --- what a server takes to be filled and started ---

    def fill(self, server: SearchServer) -> None:
        """Until it serves all vectors after a kill."""
        used = self.used[server.name] = {}
        server.start()
        empty = harness.tree_resident_mebibytes(server.server.process.pid)
        for until, rate in server.ingest().items():
            used[f"ingest, {until}"] = rate
            self.add(f"{server.name}, ingest, {until}", rate, "items/s", better="higher")
        if server.count() != len(self.data.vectors):
            raise SystemExit(f"{server.name} holds {server.count()} items")
        self.add(f"{server.name}, memory of an empty server", empty, "MiB")
        self.add(f"{server.name}, memory after ingest",
                 harness.tree_resident_mebibytes(server.server.process.pid), "MiB")
        used["disk"] = harness.disk_mebibytes(server.setup.store)
        self.add(f"{server.name}, disk", used["disk"], "MiB")
        tune(server, DEFAULT_TARGET)
        server.find_probe()
        used["from start to a right answer"] = self.restart(server)
        self.add(f"{server.name}, from start to a right answer",
                 used["from start to a right answer"], "s")
        server.recall()  # Touches what searches touch.
        used["memory"] = harness.tree_resident_mebibytes(server.server.process.pid)
        used["memory less that of an empty server"] = used["memory"] - empty
        self.add(f"{server.name}, memory after a restart", used["memory"], "MiB")

    @staticmethod
    def restart(server: SearchServer) -> float:
        """Seconds after a kill -9."""
        server.server.kill()
        begin = time.monotonic()
        server.launch()
        server.server.wait_until(server.answers_well, MOST_RESTART_SECONDS, pause=0.005)
        return time.monotonic() - begin

    def compare_stores(self, peer: str) -> None:
        ours, theirs = self.used["quernd"], self.used[peer]
        for measure, value in theirs.items():
            # What only a peer can do is context, and so is what no goal is about.
            is_goal = measure in ours and measure != "disk" and is_foreign(peer)
            own = ours.get(measure, ours["ingest, until acknowledged"])
            self.add(f"quernd / {peer}, {measure}", own / value, "", goal=1 if is_goal else None,
                     better="higher" if measure.startswith("ingest") else "lower")

    # --- searches ---

    def compare_searches(self, quernd: SearchServer, peer: SearchServer, target: float) -> None:
        busy, calm = {}, {}
        for server in (quernd, peer):
            effort = tune(server, target)
            if effort is not None:
                self.add(f"{server.name} at {target}, beam", effort, "")
            self.add(f"{server.name} at {target}, recall@10", server.recall(), "",
                     goal=target, better="higher")
            server.prepare_load()
            server.server.load(CLIENTS, WARM_UP_SECONDS)
            busy[server.name], calm[server.name] = [], []
        for number in range(self.options.rounds):
            order = (quernd, peer) if number % 2 == 0 else (peer, quernd)
            for server in order:
                busy[server.name].append(server.server.load(CLIENTS, self.options.seconds))
            for server in order:
                calm[server.name].append(server.server.load(1, self.options.seconds / 2))
        for name in busy:
            self.add_searches(f"{name} at {target}", busy[name], calm[name])
        self.add_search_ratios(busy, calm, peer.name, target)

    def add_searches(self, name: str, busy: list[dict], calm: list[dict]) -> None:
        def column(rounds, key):
            return [result[key] for result in rounds]

        many, one = f"{name}, {CLIENTS} clients", f"{name}, one client"
        self.add(many, column(busy, "calls_per_second"), "queries/s", better="higher")
        self.add(f"{many}, p50", column(busy, "p50_ms"), "ms")
        self.add(f"{many}, p99", column(busy, "p99_ms"), "ms")
        self.add(f"{many}, processor time", column(busy, "server_cpu_ms"), "ms/query")
        self.add(f"{many}, client's", column(busy, "client_cpu_ms"), "ms/query")
        self.add(f"{one}, p50", column(calm, "p50_ms"), "ms")
        self.add(f"{one}, processor time", column(calm, "server_cpu_ms"), "ms/query")

    def add_search_ratios(self, busy: dict, calm: dict, peer: str, target: float) -> None:
        def ratios(results, key):
            return [a[key] / b[key] for a, b in zip(results["quernd"], results[peer])]

        goal = 1 if is_foreign(peer) else None
        many = f"quernd / {peer} at {target}, {CLIENTS} clients"
        one = f"quernd / {peer} at {target}, one client"
        self.add(many, ratios(busy, "calls_per_second"), "", goal=goal, better="higher")
        self.add(f"{many}, processor time", ratios(busy, "server_cpu_ms"), "")
        self.add(f"{one}, p50", ratios(calm, "p50_ms"), "", goal=goal)
        self.add(f"{one}, processor time", ratios(calm, "server_cpu_ms"), "")


def is_foreign(peer: str) -> bool:
    """quernd of another kind is context."""
    return not peer.startswith("quernd")


def tune(server: SearchServer, target: float) -> int | None:
    """Sets the least effort that reaches the recall, on the queries that are measured: a peer
    gets the benefit. quernd has to meet it by itself, and is only told which if it is not its own."""
    if server.efforts is None:
        server.set_effort(None if target == DEFAULT_TARGET else target)
        return None

    def recall(effort: int) -> float:
        server.set_effort(effort)
        return server.recall()

    place = bisect.bisect_left(server.efforts, target, key=recall)
    if place == len(server.efforts):
        raise SystemExit(f"{server.name} does not reach a recall of {target}")
    server.set_effort(server.efforts[place])
    return server.efforts[place]


def end(server: SearchServer) -> None:
    if server.server is not None and server.server.process.poll() is None:
        server.server.kill()
    shutil.rmtree(server.setup.folder)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True,
                        help="folder that tests/bench/search/make_vectors.py filled")
    parser.add_argument("--proto", type=pathlib.Path, required=True, help="Quern's proto folder")
    parser.add_argument("--scratch", type=pathlib.Path, required=True,
                        help="folder on a disk, for the servers' data")
    parser.add_argument("--only", action="append", choices=PEERS,
                        help="leave out the other peers; repeatable")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    with tempfile.TemporaryDirectory(prefix="peers-", dir=options.scratch) as folder:
        table = Bench(options, pathlib.Path(folder)).run()
    if options.json:
        table.write(options.json)


if __name__ == "__main__":
    main()
