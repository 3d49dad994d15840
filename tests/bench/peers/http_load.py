"""POSTs ready-made bodies to a local HTTP/1.1 server as fast as it answers and prints what came
of it as one line of JSON, like grpc_load: bytes go out as they are, answers are not parsed."""

import argparse
import asyncio
import json
import pathlib
import statistics
import time

import uvloop


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.received = b""
        self.expected = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.start = time.perf_counter()
        self.transport.write(self.load.next_request())

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.expected is None:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.received[:end].lower()
            length = head.split(b"content-length:")[1].split(b"\r\n")[0]
            self.expected = end + 4 + int(length)
            self.ok = head.startswith(b"http/1.1 200")
        if len(self.received) < self.expected:
            return
        self.received, self.expected = b"", None
        if self.load.add(self.start, time.perf_counter(), self.ok):
            self.send()
        else:
            self.transport.close()


class Load:
    def __init__(self, requests: list[bytes], begin: float, end: float) -> None:
        self.requests = requests
        self.begin, self.end = begin, end
        self.index = 0
        self.milliseconds: list[float] = []
        self.failed = 0
        self.cpu = 0.0

    def next_request(self) -> bytes:
        self.index += 1
        return self.requests[self.index % len(self.requests)]

    def add(self, start: float, now: float, ok: bool) -> bool:
        """Whether to go on."""
        if now < self.begin:
            self.cpu = time.process_time()
        elif now <= self.end and ok:
            self.milliseconds.append(1e3 * (now - start))
        self.failed += not ok
        return now < self.end


async def run(options: argparse.Namespace) -> Load:
    data = options.messages.read_bytes()
    requests = []
    while data:
        length = int.from_bytes(data[:4], "little")
        body, data = data[4 : 4 + length], data[4 + length :]
        head = (
            f"POST {options.path} HTTP/1.1\r\nhost: {options.address}\r\n"
            f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    begin = time.perf_counter() + options.warm_up
    load = Load(requests, begin, begin + options.seconds)
    host, port = options.address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    for _ in range(options.in_flight):
        await loop.create_connection(lambda: Connection(load), host, int(port))
    await asyncio.sleep(load.end - time.perf_counter())
    load.cpu = time.process_time() - load.cpu
    await asyncio.sleep(1)
    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--messages", type=pathlib.Path, required=True)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warm-up", type=float, default=0.5)
    options = parser.parse_args()
    uvloop.install()
    load = asyncio.run(run(options))
    calls = len(load.milliseconds)
    if calls < 2:
        raise SystemExit("no answers")
    print(
        json.dumps(
            {
                "calls": load.index,
                "failed": load.failed,
                "calls_per_second": calls / options.seconds,
                "p50_ms": statistics.median(load.milliseconds),
                "p99_ms": statistics.quantiles(load.milliseconds, n=100)[98],
                "client_cpu_ms": 1e3 * load.cpu / calls,
            }
        )
    )


if __name__ == "__main__":
    main()
