"""Milvus standalone: the real engine, with its log and its objects on the local disk."""

import pathlib
import sys
import time

import grpc
import milvus
import numpy
import pymilvus
from pymilvus.client.prepare import Prepare
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

import harness
from search_server import BUILD_BEAM, COLLECTION, K, LINKS, WRITERS, SearchServer, Setup

SERVICE = "/milvus.proto.milvus.MilvusService"
# How answers begin whose status is empty: well. Its errors are OK to gRPC.
SUCCESS = "0a00"
EVENTUALLY = 1  # A timestamp that is always past: a search waits for no write.


class Milvus(SearchServer):
    name = "milvus"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.beam = K
        self.channel: grpc.Channel | None = None
        # The wheel holds the programs compressed; unpacked once for an environment.
        self.programs = pathlib.Path(sys.prefix) / "milvus"
        milvus._initialize_data_files(str(self.programs))

    def launch(self) -> None:
        config = milvus.MilvusServerConfig(data_dir=str(self.setup.folder))
        for key, value in {
            # Segments grow to all of their 512 MB: each one is a graph of its own to search.
            "dataCoord.segment.sealProportion": 1.0,
            "proxy.ip": "127.0.0.1",
            "log.level": "warn",
        }.items():
            config.set(key, value)
        config.resolve()
        self.address = f"127.0.0.1:{config.get('proxy_port')}"
        self.server = harness.Server(
            self.name, [self.programs / "bin/milvus", "run", "standalone"], self.setup.folder,
            {"DEPLOY_MODE": "STANDALONE", "METRICS_PORT": str(harness.free_port()),
             "MILVUS_RUN_DIR": str(self.setup.folder / "run"),
             "LD_LIBRARY_PATH": str(self.programs / "bin")})

    def connect(self) -> None:
        if self.channel is not None:
            self.channel.close()
        self.channel = grpc.insecure_channel(self.address)
        self.search = self.channel.unary_unary(
            f"{SERVICE}/Search", response_deserializer=milvus_pb2.SearchResults.FromString)

    def check(self) -> None:
        self.connect()
        health = self.channel.unary_unary(
            f"{SERVICE}/CheckHealth",
            milvus_pb2.CheckHealthRequest.SerializeToString,
            milvus_pb2.CheckHealthResponse.FromString)
        if not health(milvus_pb2.CheckHealthRequest(), timeout=5).isHealthy:
            raise ConnectionError("not healthy yet")

    def ingest(self) -> dict[str, float]:
        collection = self._create()
        rows = len(self.data.vectors)
        messages = self.messages("inserts", (
            self._insert(numbers, vectors).SerializeToString()
            for numbers, vectors in self.data.batches(rows)))
        load = harness.run_load(self.name, self.load_command(
            "grpc_load", self.address, messages, "--method", f"{SERVICE}/Insert", "--once",
            "--in-flight", WRITERS, "--expect-prefix", SUCCESS))
        messages.unlink()
        seconds = load["calls"] / load["calls_per_second"]
        begin = time.monotonic()
        collection.flush()
        pymilvus.utility.wait_for_index_building_complete(COLLECTION)
        collection.load()
        return {"until acknowledged": rows / seconds,
                "until indexed": rows / (seconds + time.monotonic() - begin)}

    def _create(self) -> pymilvus.Collection:
        pymilvus.connections.connect(address=self.address)
        fields = [
            pymilvus.FieldSchema("id", pymilvus.DataType.INT64, is_primary=True),
            pymilvus.FieldSchema("v", pymilvus.DataType.FLOAT_VECTOR, dim=self.data.dimension),
        ]
        collection = pymilvus.Collection(
            COLLECTION, pymilvus.CollectionSchema(fields), shards_num=1)
        collection.create_index("v", {
            "index_type": "HNSW", "metric_type": "IP",
            "params": {"M": LINKS, "efConstruction": BUILD_BEAM}})
        return collection

    def _insert(self, numbers: range, vectors: numpy.ndarray) -> milvus_pb2.InsertRequest:
        request = milvus_pb2.InsertRequest(
            collection_name=COLLECTION, num_rows=len(numbers), hash_keys=numbers)
        ids = request.fields_data.add(type=schema_pb2.Int64, field_name="id")
        ids.scalars.long_data.data.extend(numbers)
        column = request.fields_data.add(type=schema_pb2.FloatVector, field_name="v")
        column.vectors.dim = self.data.dimension
        # FloatArray: data = 1.
        column.vectors.float_vector.MergeFromString(harness.field(1, vectors.tobytes()))
        return request

    def count(self) -> int:
        return pymilvus.Collection(COLLECTION).num_entities

    def set_effort(self, effort: int) -> None:
        self.beam = effort

    def _request(self, query: numpy.ndarray) -> bytes:
        return Prepare.search_requests_with_expr(
            COLLECTION, [query.tolist()], "v",
            {"metric_type": "IP", "params": {"ef": self.beam}}, K,
            guarantee_timestamp=EVENTUALLY).SerializeToString()

    def ask(self, query: numpy.ndarray) -> list[int]:
        answer = self.search(self._request(query), timeout=5)
        if answer.status.code or answer.status.error_code:
            raise RuntimeError(answer.status.reason)
        return list(answer.results.ids.int_id.data)

    def prepare_load(self) -> None:
        self.server.client = self.load_command(
            "grpc_load", self.address,
            self.messages("searches", map(self._request, self.data.queries)),
            "--method", f"{SERVICE}/Search", "--expect-prefix", SUCCESS)
