"""A scorer for Quern that asks a multimodal language model.

Serves `quern.v1.Scoring`: for each picture of a short list it asks an OpenAI-compatible chat
endpoint (OpenAI, vLLM, llama.cpp, Ollama, ...) how likely the picture shows the query's text.
The answer must be exactly the JSON object that was asked for; anything else is that
candidate's error, never a guess.

    pip install grpcio grpcio-tools googleapis-common-protos
    python client/python/examples/openai_scorer.py --listen 127.0.0.1:7080 \
        --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen2.5-VL-7B-Instruct
    quernd --set 'scoring.remote=[127.0.0.1:7080]' --set 'media.roots=[/media]'
    quern search "a dog in the snow" --rerank remote --depth 20

It is shown the pictures that items name by their `media_uri`, below the server's `media.roots`.

The key, where the endpoint wants one, is read from the environment variable OPENAI_API_KEY.
"""

import argparse
import base64
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc

# The contract, compiled from the .proto files as they are.
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "proto"))
scoring, scoring_services = grpc.protos_and_services("quern/v1/scoring.proto")

VERSION = "1"
MAX_CANDIDATES = 100
MAX_ANSWER_BYTES = 1 << 20
# Of a short list of pictures.
MAX_MESSAGE_BYTES = 256 << 20
SIGNATURES = ((b"\xff\xd8", "image/jpeg"), (b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"))
INSTRUCTION = (
    "You judge whether a picture shows what a query describes. Answer with one JSON object and nothing else: "
    '{"probability": P}, where P is a number from 0 (certainly not) to 1 (certainly).'
)


class BadAnswer(Exception):
    """The endpoint failed, or said something other than what it was asked for."""


def media_type(picture: bytes) -> str:
    for signature, name in SIGNATURES:
        if picture.startswith(signature):
            return name
    raise BadAnswer("the picture is no JPEG, PNG, GIF or WebP")


def question(model: str, text: str, picture: bytes) -> dict:
    url = f"data:{media_type(picture)};base64,{base64.b64encode(picture).decode()}"
    return {
        "model": model,
        "temperature": 0,
        "max_tokens": 32,
        "response_format": {"type": "json_object"},
        "messages": [
            {"role": "system", "content": INSTRUCTION},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": f"Query: {json.dumps(text, ensure_ascii=False)}"},
                    {"type": "image_url", "image_url": {"url": url}},
                ],
            },
        ],
    }


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def no_twice(pairs: list) -> dict:
    """Of two equal keys one would win unseen."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def parse_answer(body: bytes) -> float:
    """The probability in the endpoint's answer. Raises BadAnswer for whatever else it is."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise BadAnswer(f"the endpoint's answer is no chat completion: {body[:100]!r}") from None
    try:
        answer = json.loads(content, parse_constant=no_constant, object_pairs_hook=no_twice)
    except (ValueError, TypeError, RecursionError):
        answer = None
    probability = answer.get("probability") if isinstance(answer, dict) and len(answer) == 1 else None
    # bool is an int to Python.
    if type(probability) not in (int, float) or not 0 <= probability <= 1:
        raise BadAnswer(f'the model answered {str(content)[:100]!r}, not {{"probability": 0..1}}')
    return float(probability)


class OpenAiScorer:
    def __init__(self, endpoint: str, model: str, timeout: float, concurrency: int) -> None:
        self.url = endpoint.rstrip("/") + "/chat/completions"
        self.model = model
        self.timeout = timeout
        self.workers = futures.ThreadPoolExecutor(concurrency)

    def ask(self, text: str, picture: bytes, timeout: float) -> float:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(question(self.model, text, picture)).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                body = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors.
            raise BadAnswer(f"the endpoint failed: {error}") from None
        if len(body) > MAX_ANSWER_BYTES:
            raise BadAnswer(f"the endpoint's answer has more than {MAX_ANSWER_BYTES} bytes")
        return parse_answer(body)

    def score_one(self, text: str, candidate, context) -> "scoring.CandidateScore":
        score = scoring.CandidateScore(id=candidate.id)
        if not candidate.media.content:
            score.status.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            score.status.message = "media.content is empty: this scorer looks at pictures"
            return score
        remaining = context.time_remaining()
        timeout = self.timeout if remaining is None else min(self.timeout, remaining)
        if timeout <= 0 or not context.is_active():
            score.status.code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            score.status.message = "no time was left to ask"
            return score
        try:
            score.probability = score.score = self.ask(text, candidate.media.content, timeout)
        except BadAnswer as error:
            score.status.code = grpc.StatusCode.UNAVAILABLE.value[0]
            score.status.message = str(error)
        return score

    # The names of the methods are those of the contract.
    def Score(self, request, context):  # noqa: N802
        if request.task not in (scoring.SCORING_TASK_UNSPECIFIED, scoring.SCORING_TASK_RERANK):
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "task: this scorer does RERANK only")
        if not request.query.text:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "query.text: is empty; this scorer reads it")
        if not 1 <= len(request.candidates) <= MAX_CANDIDATES:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"candidates: there are {len(request.candidates)}; give 1 to {MAX_CANDIDATES}",
            )
        scores = self.workers.map(lambda c: self.score_one(request.query.text, c, context), request.candidates)
        return scoring.ScoreResponse(scores=scores, scorer=f"{self.model} {VERSION}")

    def Describe(self, request, context):  # noqa: N802
        return scoring.ScorerDescription(
            name=self.model,
            version=VERSION,
            tasks=[scoring.SCORING_TASK_RERANK],
            required_features=[scoring.SCORING_FEATURE_MEDIA, scoring.SCORING_FEATURE_TEXT],
            max_candidates=MAX_CANDIDATES,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:7080", help="HOST:PORT; port 0 takes a free one")
    parser.add_argument("--endpoint", required=True, help="URL up to and with /v1")
    parser.add_argument("--model", required=True, help="name of the model at the endpoint")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for one picture (default 30)")
    parser.add_argument("--concurrency", type=int, default=8, help="pictures asked about at once (default 8)")
    options = parser.parse_args()
    if options.timeout <= 0 or options.concurrency < 1:
        parser.error("--timeout must be above 0 and --concurrency at least 1")
    if not options.endpoint.startswith(("http://", "https://")):
        parser.error("--endpoint must begin with http:// or https://")

    server = grpc.server(
        futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    )
    scoring_services.add_ScoringServicer_to_server(
        OpenAiScorer(options.endpoint, options.model, options.timeout, options.concurrency), server
    )
    port = server.add_insecure_port(options.listen)
    server.start()
    print(f"openai_scorer ready address={options.listen.rsplit(':', 1)[0]}:{port}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(grace=5))
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())
