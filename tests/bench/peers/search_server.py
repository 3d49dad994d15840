"""What search.py asks of each server, and the data that all of them hold."""

import abc
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator

import numpy

import harness

K = 10
COLLECTION = "bench"
# Of the graph, in each server: links of a row, and beam while linking (quernd chooses its own).
LINKS = 16
BUILD_BEAM = 128
# Items that the peers get in one write, and are on the disk with one sync. quernd takes the items
# of a stream as they come, and syncs what came while it synced before: about as many.
BATCH = 1000
# Writes under way at once: twice as many as two cores.
WRITERS = 4


@dataclasses.dataclass(frozen=True)
class Data:
    """Unit vectors; their ids are their row numbers."""

    vectors: numpy.ndarray
    queries: numpy.ndarray
    truth: numpy.ndarray  # Per query the K rows of the largest inner products.
    calibration: numpy.ndarray  # Queries that are not measured.

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Data":
        def load(name):
            return numpy.load(folder / f"{name}.npy", mmap_mode="r")

        return cls(load("vectors"), load("queries"), load("truth")[:, :K], load("calibration"))

    @property
    def dimension(self) -> int:
        return self.vectors.shape[1]

    @property
    def mebibytes(self) -> float:
        return self.vectors.nbytes / (1 << 20)

    def batches(self, rows: int) -> Iterator[tuple[range, numpy.ndarray]]:
        """The first `rows` vectors, BATCH at a time."""
        for first in range(0, rows, BATCH):
            numbers = range(first, min(first + BATCH, rows))
            yield numbers, numpy.asarray(self.vectors[numbers.start : numbers.stop])


@dataclasses.dataclass(frozen=True)
class Setup:
    data: Data
    binaries: pathlib.Path  # Of Quern.
    folder: pathlib.Path  # For this server alone.

    @property
    def store(self) -> pathlib.Path:
        """For what is to survive a kill."""
        return self.folder / "data"


class SearchServer(abc.ABC):
    """A server with one collection, and its clients."""

    name: str
    # The efforts that it can be told to search with, if it is to be tuned to a recall by hand.
    efforts: range | None = range(K, 1001)

    def __init__(self, setup: Setup) -> None:
        self.setup, self.data = setup, setup.data
        self.server: harness.Server | None = None
        setup.folder.mkdir(parents=True)

    # --- the process ---

    @abc.abstractmethod
    def launch(self) -> None:
        """Starts it over what the folder holds; it need not serve yet."""

    @abc.abstractmethod
    def connect(self) -> None:
        """Makes a new client of it; raises when there is nothing to connect to."""

    def check(self) -> None:
        """Raises when it does not serve yet."""
        self.connect()

    def start(self) -> None:
        """Until it serves."""
        self.launch()
        self.server.wait_until(lambda: succeeds(self.check))

    # --- the collection ---

    @abc.abstractmethod
    def ingest(self) -> dict[str, float]:
        """Makes the collection and writes all vectors; items a second, by what was waited for:
        "until acknowledged": they survive a kill; "until indexed": and are in the graph; others."""

    @abc.abstractmethod
    def count(self) -> int:
        """Items in the collection."""

    # --- searches ---

    @abc.abstractmethod
    def set_effort(self, effort: float | None) -> None:
        """Of all searches from now on: a beam; for quernd a recall, or None for its own."""

    @abc.abstractmethod
    def ask(self, query: numpy.ndarray) -> list[int]:
        """The ids found, best first; raises where the server answers with an error."""

    @abc.abstractmethod
    def prepare_load(self) -> None:
        """Gives `server.client` the searches of all queries with the present effort."""

    def recall(self) -> float:
        found = [self.ask(query) for query in self.data.queries]
        return sum(map(self._right, found, self.data.truth)) / self.data.truth.size

    def answers_well(self) -> bool:
        """Whether a new client gets an answer, and a good one."""

        def ask() -> None:
            self.connect()
            query, truth = self._probe
            if self._right(self.ask(query), truth) < 0.8 * K:
                raise ValueError("not all is there yet")

        return succeeds(ask)

    @functools.cached_property
    def _probe(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """A query that is answered perfectly, with its answer."""
        for query, truth in zip(self.data.queries, self.data.truth):
            if self._right(self.ask(query), truth) == K:
                return query, truth
        raise SystemExit(f"{self.name} answers no query as it should")

    def find_probe(self) -> None:
        """For `answers_well`, while it serves."""
        _ = self._probe

    @staticmethod
    def _right(found: list[int], truth: numpy.ndarray) -> int:
        return len(numpy.intersect1d(found, truth))

    # --- for the servers ---

    def messages(self, name: str, messages) -> pathlib.Path:
        return harness.write_messages(self.setup.folder / name, messages)

    def load_command(self, program: str, address: str, messages: pathlib.Path, *more) -> list:
        return [self.setup.binaries / program, "--address", address, "--messages", messages, *more]


def succeeds(action) -> bool:
    try:
        action()
    except Exception:  # Each client has errors of its own.
        return False
    return True


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
