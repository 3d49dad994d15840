"""The text tower of a Quern package on Triton, by PyTriton: strings in, embeddings out.

Triton's dynamic batcher joins requests; each instance runs one batch at a time on
`--threads` threads. Prints "ready" once it serves, and serves until it is told to end.
"""

import argparse
import pathlib
import signal
import threading

import numpy
import tokenizers
import torch
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def make_encoder(package: pathlib.Path):
    """A function for one instance, with a tower of its own."""
    tokenizer = tokenizers.BertWordPieceTokenizer(str(package / "vocab.txt"), lowercase=True)
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    tower = torch.jit.freeze(torch.jit.load(str(package / "text.ts")).eval())

    @batch
    def encode(text: numpy.ndarray):
        encoded = tokenizer.encode_batch([row[0].decode() for row in text])
        ids = torch.tensor([row.ids for row in encoded])
        mask = torch.tensor([row.attention_mask for row in encoded])
        with torch.inference_mode():
            return {"embedding": tower(ids, mask).numpy()}

    return encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=pathlib.Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--delay-us", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    config = TritonConfig(
        grpc_port=options.port, allow_http=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="text",
            infer_func=[make_encoder(options.package) for _ in range(options.instances)],
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="embedding", dtype=numpy.float32, shape=(512,))],
            config=ModelConfig(
                max_batch_size=options.max_batch,
                batcher=DynamicBatcher(max_queue_delay_microseconds=options.delay_us),
            ),
        )
        triton.run()
        print("ready", flush=True)
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        ended.wait()


if __name__ == "__main__":
    main()
