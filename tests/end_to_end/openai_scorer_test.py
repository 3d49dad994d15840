"""The example scorer against a stand-in that speaks the chat protocol over HTTP."""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "client/python/examples/openai_scorer.py"
sys.path.insert(0, str(ROOT / "proto"))
scoring, scoring_services = grpc.protos_and_services("quern/v1/scoring.proto")
collections, collection_services = grpc.protos_and_services("quern/v1/collections.proto")
items, item_services = grpc.protos_and_services("quern/v1/items.proto")
retrieval, retrieval_services = grpc.protos_and_services("quern/v1/retrieval.proto")

JPEG = b"\xff\xd8 not that anybody decodes it"


def chat(content: object) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


# What the endpoint says of a picture, which carries the name of the case.
ANSWERS = {
    b"sure": chat('{"probability": 0.75}'),
    b"low": chat('{"probability": 0.25}'),
    b"integer": chat(' {"probability": 1}\n'),
    b"prose": chat('Yes: {"probability": 0.9}'),
    b"another key": chat('{"probability": 0.9, "why": "it is red"}'),
    b"key twice": chat('{"probability": 0.9, "probability": 0.1}'),
    b"above one": chat('{"probability": 1.01}'),
    b"below zero": chat('{"probability": -0.5}'),
    b"not a number": chat('{"probability": NaN}'),
    b"infinity": chat('{"probability": Infinity}'),
    b"bool": chat('{"probability": true}'),
    b"text": chat('{"probability": "0.5"}'),
    b"list": chat("[0.5]"),
    b"null": chat(None),
    b"deep": chat("[" * 100_000),
    b"no choice": b'{"choices": []}',
    b"no json": b"<html>",
    b"huge": b" " * (2 << 20),
}


class Endpoint(BaseHTTPRequestHandler):
    """What an OpenAI-compatible server does of the protocol that the example uses."""

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        system, user = body["messages"]
        kinds = [part["type"] for part in user["content"]]
        well_formed = (
            self.path == "/v1/chat/completions"
            and self.headers["Authorization"] == "Bearer secret"
            and body["model"] == "stand-in"
            and body["temperature"] == 0
            and (system["role"], user["role"]) == ("system", "user")
            and kinds == ["text", "image_url"]
            and "un chien \u00ab noir \u00bb" in user["content"][0]["text"]
        )
        url = user["content"][1]["image_url"]["url"]
        prefix, data = url.split(",")
        picture = base64.b64decode(data)
        case = self.server.cases.get(picture, picture[len(JPEG) :])
        kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
        if not well_formed or prefix != f"data:image/{kind};base64" or case == b"error":
            self.send_response(500)
            self.end_headers()
            return
        if case == b"silence":
            self.server.released.wait(timeout=30)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ANSWERS[case])

    def log_message(self, *_: object) -> None:
        pass


class OpenAiScorerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.endpoint = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        cls.endpoint.released = threading.Event()
        cls.endpoint.cases = {}  # Of whole pictures.
        threading.Thread(target=cls.endpoint.serve_forever, daemon=True).start()
        cls.scorer = subprocess.Popen(
            [sys.executable, "-B", EXAMPLE, "--listen", "127.0.0.1:0", "--model", "stand-in", "--timeout", "20",
             "--endpoint", f"http://127.0.0.1:{cls.endpoint.server_port}/v1/"],
            env=os.environ | {"OPENAI_API_KEY": "secret", "no_proxy": "127.0.0.1"}, stdout=subprocess.PIPE, text=True)
        cls.addClassCleanup(cls.stop)
        ready = re.match(r"openai_scorer ready address=(\S+)", cls.scorer.stdout.readline())
        cls.address = ready.group(1)
        channel = grpc.insecure_channel(cls.address)
        cls.addClassCleanup(channel.close)
        cls.stub = scoring_services.ScoringStub(channel)

    @classmethod
    def stop(cls) -> None:
        cls.endpoint.released.set()
        cls.scorer.terminate()
        cls.scorer.wait(timeout=30)
        cls.scorer.stdout.close()
        cls.endpoint.shutdown()
        cls.endpoint.server_close()

    def score(self, *pictures: bytes, timeout: float = 60, text: str = "un chien \u00ab noir \u00bb", task: int = 0):
        request = scoring.ScoreRequest(task=task)
        request.query.text = text
        for i, picture in enumerate(pictures):
            request.candidates.add(id=f"item-{i}").media.content = picture
        return self.stub.Score(request, timeout=timeout)

    def assert_refused(self, code: grpc.StatusCode, *pictures: bytes, **arguments) -> None:
        with self.assertRaises(grpc.RpcError) as raised:
            self.score(*pictures, **arguments)
        self.assertEqual(raised.exception.code(), code)

    def test_gives_the_models_probabilities_in_order(self) -> None:
        response = self.score(JPEG + b"sure", JPEG + b"integer")
        self.assertEqual([score.id for score in response.scores], ["item-0", "item-1"])
        self.assertEqual([score.score for score in response.scores], [0.75, 1])
        self.assertEqual([score.probability for score in response.scores], [0.75, 1])
        self.assertEqual(response.scorer, "stand-in 1")

    def test_takes_no_other_answer(self) -> None:
        bad = [case for case in ANSWERS if case not in (b"sure", b"low", b"integer")] + [b"error"]
        response = self.score(*(JPEG + case for case in bad), JPEG + b"sure", b"no picture", b"")
        for case, score in zip(bad, response.scores):
            with self.subTest(case):
                self.assertEqual(score.status.code, grpc.StatusCode.UNAVAILABLE.value[0])
                self.assertNotEqual(score.status.message, "")
                self.assertEqual(score.score, 0)
        self.assertEqual(response.scores[-3].score, 0.75)
        self.assertIn("no JPEG", response.scores[-2].status.message)
        self.assertIn("media.content", response.scores[-1].status.message)

    def test_a_silent_endpoint_ends_with_the_deadline(self) -> None:
        self.assert_refused(grpc.StatusCode.DEADLINE_EXCEEDED, JPEG + b"silence", timeout=1)

    def test_refuses_what_it_cannot_do(self) -> None:
        self.assert_refused(grpc.StatusCode.UNIMPLEMENTED, JPEG, task=scoring.SCORING_TASK_REGIONS)
        self.assert_refused(grpc.StatusCode.INVALID_ARGUMENT, JPEG, text="")
        self.assert_refused(grpc.StatusCode.INVALID_ARGUMENT)
        self.assert_refused(grpc.StatusCode.INVALID_ARGUMENT, *([JPEG] * 101))

    def test_describes_itself(self) -> None:
        description = self.stub.Describe(scoring.DescribeScorerRequest(), timeout=30)
        self.assertEqual(list(description.tasks), [scoring.SCORING_TASK_RERANK])
        self.assertIn(scoring.SCORING_FEATURE_MEDIA, description.required_features)
        self.assertEqual(description.max_candidates, 100)

    def test_reranks_for_a_server_in_front(self) -> None:
        pictures = sorted((Path(os.environ["QUERN_CACHE"]) / "samples/pictures").rglob("*.png"))[:4]
        answers = [b"low", b"sure", b"prose", b"integer"]
        self.endpoint.cases.update((path.read_bytes(), case) for path, case in zip(pictures, answers))
        with tempfile.TemporaryDirectory() as data:
            front = subprocess.Popen(
                [f"{os.environ['QUERN_BIN']}/quernd", "--set", "server.address=127.0.0.1:0",
                 "--set", "metrics.address=", "--set", f"storage.path={data}/data",
                 "--set", f"scoring.remote=[{self.address}]",
                 "--set", f"media.roots=[{os.environ['QUERN_CACHE']}/samples/pictures]"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.addCleanup(front.stdout.close)
            self.addCleanup(front.wait, timeout=30)
            self.addCleanup(front.terminate)
            address = re.match(r"quernd ready address=(\S+)", front.stdout.readline()).group(1)
            with grpc.insecure_channel(address) as channel:
                self.rerank(channel, pictures)

    def rerank(self, channel: grpc.Channel, pictures: list[Path]) -> None:
        create = collections.CreateCollectionRequest()
        create.collection.name = "photos"
        collection_services.CollectionsStub(channel).Create(create, timeout=30)
        upserts = []
        for path in pictures:
            upserts.append(items.UpsertRequest(collection="photos", id=path.name, media_uri=str(path)))
            upserts[-1].image.content = path.read_bytes()
        for result in item_services.ItemsStub(channel).Upsert(iter(upserts), timeout=60):
            self.assertEqual(result.status.code, 0, result.status.message)
        search = retrieval.SearchRequest(collection="photos")
        search.query.parts.add(text="un chien \u00ab noir \u00bb")
        search.rerank.method = retrieval.Rerank.METHOD_REMOTE
        search.rerank.weight = 1
        response = retrieval_services.RetrievalStub(channel).Search(search, timeout=60)
        scores = {hit.item.id: hit.stage_scores[1].score for hit in response.hits if len(hit.stage_scores) > 1}
        low, sure, _, integer = (path.name for path in pictures)
        self.assertEqual(scores, {low: 0.25, sure: 0.75, integer: 1})
        order = [hit.item.id for hit in response.hits if hit.item.id in scores]
        self.assertEqual(order, [integer, sure, low])
        # The one whose answer was prose keeps its coarse score, and the report says so.
        self.assertTrue(response.report.degraded)
        self.assertIn("of 4 candidates, 1 got no score", response.report.degraded_reasons[0])

    def test_refuses_an_endpoint_of_another_kind(self) -> None:
        done = subprocess.run(
            [sys.executable, "-B", EXAMPLE, "--listen", "127.0.0.1:0", "--model", "m", "--endpoint", "ftp://127.0.0.1"],
            capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--endpoint", done.stderr)


if __name__ == "__main__":
    unittest.main()
