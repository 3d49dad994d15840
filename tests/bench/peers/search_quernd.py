"""quernd, without a model: what it is asked for are ready-made embeddings."""

import importlib
import pathlib
import sys
import time

import grpc
import grpc_tools
import grpc_tools.protoc
import google.rpc
import numpy

import harness
from harness import field
from search_server import COLLECTION, K, SearchServer, Setup

CALIBRATION_QUERIES = 256


class Quernd(SearchServer):
    # It calibrates itself to a recall.
    efforts = None

    def __init__(self, setup: Setup, proto: pathlib.Path, storage: str) -> None:
        self.name = "quernd" if storage == "INT8" else f"quernd-{storage.lower()}"
        super().__init__(setup)
        self.storage = storage
        self.target: float | None = None
        self.channel: grpc.Channel | None = None
        self._load_stubs(proto)

    def _load_stubs(self, proto: pathlib.Path) -> None:
        out = self.setup.folder / "stubs"
        out.mkdir()
        files = ["common", "items", "collections", "retrieval"]
        arguments = ["protoc", f"-I{proto}", f"-I{pathlib.Path(grpc_tools.__file__).parent}/_proto",
                     f"-I{pathlib.Path(google.rpc.__path__[0]).parent.parent}",
                     f"--python_out={out}", f"--grpc_python_out={out}"]
        if grpc_tools.protoc.main([*arguments, *(f"quern/v1/{name}.proto" for name in files)]):
            raise SystemExit(f"{proto} cannot be compiled")
        if "quern" not in sys.modules:  # Each quernd speaks the same.
            sys.path.insert(0, str(out))
        self.collections, self.collections_grpc, self.retrieval, self.retrieval_grpc = (
            importlib.import_module(f"quern.v1.{name}")
            for name in ("collections_pb2", "collections_pb2_grpc",
                         "retrieval_pb2", "retrieval_pb2_grpc"))

    def launch(self) -> None:
        self.server, self.address = harness.start_quernd(
            self.setup.binaries, self.name, self.setup.folder, self.setup.store,
            "storage.sync=BATCH", "models.paths=[]")

    def connect(self) -> None:
        if self.channel is not None:
            self.channel.close()
        self.channel = grpc.insecure_channel(self.address)
        self.stub = self.retrieval_grpc.RetrievalStub(self.channel)
        self.admin = self.collections_grpc.CollectionsStub(self.channel)

    def check(self) -> None:
        self.connect()
        self.admin.List(self.collections.ListCollectionsRequest())

    def ingest(self) -> dict[str, float]:
        self._create()
        rows = len(self.data.vectors)
        # UpsertRequest: collection = 1, id = 2, embedding = 6, in it values = 1.
        messages = self.messages("upserts", (
            field(1, COLLECTION.encode()) + field(2, str(row).encode())
            + field(6, field(1, vector.tobytes()))
            for numbers, vectors in self.data.batches(rows)
            for row, vector in zip(numbers, vectors)))
        load = harness.run_load(self.name, self.load_command(
            "grpc_load", self.address, messages, "--method", "/quern.v1.Items/Upsert", "--stream"))
        messages.unlink()
        begin = time.monotonic()
        # As it would be in use: what is asked tells the index what to be tuned for.
        for query in self.data.calibration[:CALIBRATION_QUERIES]:
            self.ask(query)
        self._optimize()
        seconds = rows / load["calls_per_second"]
        return {"until acknowledged": load["calls_per_second"],
                "until indexed": rows / (seconds + time.monotonic() - begin)}

    def _create(self) -> None:
        index = self.collections.IndexConfig(
            kind="KIND_HNSW", storage=f"STORAGE_{self.storage}")
        self.admin.Create(self.collections.CreateCollectionRequest(
            collection=self.collections.Collection(
                name=COLLECTION, model="none", dimension=self.data.dimension, index=index)))

    def _optimize(self) -> None:
        job = self.admin.Optimize(self.collections.OptimizeCollectionRequest(name=COLLECTION))
        waiting = (self.collections.Job.STATE_PENDING, self.collections.Job.STATE_RUNNING)
        while job.state in waiting:
            time.sleep(0.1)
            job = self.admin.GetJob(self.collections.GetJobRequest(id=job.id))
        if job.state != self.collections.Job.STATE_SUCCEEDED:
            raise SystemExit(f"{self.name}: {job.message}")

    def count(self) -> int:
        request = self.collections.GetCollectionRequest(name=COLLECTION)
        return self.admin.Get(request).status.item_count

    def set_effort(self, effort: float | None) -> None:
        self.target = effort

    def _request(self, query: numpy.ndarray):
        request = self.retrieval.SearchRequest(
            collection=COLLECTION, page_size=K, recall=self.target)
        request.query.parts.add().embedding.values.extend(query.tolist())
        # As much as the others are asked for.
        request.read_mask.paths.append("id")
        return request

    def ask(self, query: numpy.ndarray) -> list[int]:
        return [int(hit.item.id) for hit in self.stub.Search(self._request(query)).hits]

    def prepare_load(self) -> None:
        messages = self.messages(
            "searches", (self._request(query).SerializeToString() for query in self.data.queries))
        self.server.client = self.load_command(
            "grpc_load", self.address, messages, "--method", "/quern.v1.Retrieval/Search")
