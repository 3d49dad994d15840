"""The quickest index of faiss-cpu or hnswlib at a recall, on one thread: what search_bench asks.

    baseline.py --data DIR [--index NAME]... [--build-threads N]

Builds each index of `vectors.npy` once (kept beside it), then answers lines on standard input:

    tune R     finds, per index, the least effort that reaches recall@10 R on `queries.npy`, and the
               quickest index at it: {"index", "effort", "recall", "cpu_us"}
    single R   {"cpu_us", "p50_ms", "per_second"} of that index, query by query
    batch R    the same in batches of 64

Efforts are tuned on the very queries that are measured: the library gets the benefit.
"""

import argparse
import json
import os
import sys
import time

import faiss
import hnswlib
import numpy as np

K = 10
BATCH = 64
TUNING_QUERIES = 300
BEAMS = [16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024]
PROBES = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512]
DEPTHS = [4, 8, 16, 32, 64]  # Rows whose exact vectors are compared, in times of K.


class Hnswlib:
    efforts = BEAMS

    def __init__(self, vectors, path, threads):
        self.index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        if os.path.exists(path):
            self.index.load_index(path, max_elements=len(vectors))
        else:
            self.index.init_index(max_elements=len(vectors), M=16, ef_construction=128)
            for first in range(0, len(vectors), 10_000):
                self.index.add_items(vectors[first : first + 10_000],
                                     np.arange(first, min(first + 10_000, len(vectors))),
                                     num_threads=threads)
            self.index.save_index(path)
        self.index.set_num_threads(1)

    def set_effort(self, effort):
        self.index.set_ef(effort)

    def search(self, queries):
        return self.index.knn_query(queries, K)[0]


class Faiss:
    def __init__(self, vectors, path, threads):
        faiss.omp_set_num_threads(threads)
        if os.path.exists(path):
            self.index = faiss.read_index(path)
        else:
            self.index = faiss.index_factory(vectors.shape[1], self.recipe(len(vectors)),
                                             faiss.METRIC_INNER_PRODUCT)
            self.prepare()
            sample = vectors[:: max(len(vectors) // 200_000, 1)]
            self.index.train(np.ascontiguousarray(sample))
            for first in range(0, len(vectors), 10_000):
                self.index.add(np.ascontiguousarray(vectors[first : first + 10_000]))
            faiss.write_index(self.index, path)
        faiss.omp_set_num_threads(1)

    def prepare(self):
        pass

    def search(self, queries):
        return self.index.search(queries, K)[1]


class FaissGraph(Faiss):
    efforts = BEAMS
    name = "HNSW16,Flat"

    def recipe(self, rows):
        return self.name

    def prepare(self):
        self.index.hnsw.efConstruction = 128

    def set_effort(self, effort):
        self.index.hnsw.efSearch = effort


class FaissByteGraph(FaissGraph):
    name = "HNSW16,SQ8"


class FaissLists(Faiss):
    efforts = sorted(((p, d) for p in PROBES for d in DEPTHS), key=lambda e: e[0] * 20 + e[1] * K)

    def recipe(self, rows):
        return f"IVF{int(2 * np.sqrt(rows))},PQ{128}x4fs,RFlat"

    def set_effort(self, effort):
        faiss.downcast_index(self.index.base_index).nprobe = effort[0]
        self.index.k_factor = effort[1]


INDEXES = {
    "hnswlib": Hnswlib,
    "faiss-hnsw": FaissGraph,
    "faiss-hnsw-sq8": FaissByteGraph,
    "faiss-ivf-pq": FaissLists,
}


class Baseline:
    def __init__(self, options):
        vectors = np.load(os.path.join(options.data, "vectors.npy"), mmap_mode="r")
        self.queries = np.load(os.path.join(options.data, "queries.npy"))
        self.truth = np.load(os.path.join(options.data, "truth.npy"))[:, :K]
        self.indexes = {}
        for name in options.index:
            start = time.time()
            path = os.path.join(options.data, f"baseline-{name}")
            self.indexes[name] = INDEXES[name](vectors, path, options.build_threads)
            print(f"{name}: built or loaded in {time.time() - start:.0f} s", file=sys.stderr)
        self.best = {}

    def recall(self, index, count):
        found = index.search(self.queries[:count])
        hits = [len(np.intersect1d(a, b)) for a, b in zip(found, self.truth[:count])]
        return sum(hits) / (count * K)

    def tune(self, target):
        if target in self.best:
            return self.best[target][1]
        for name, index in self.indexes.items():
            for effort in index.efforts:
                index.set_effort(effort)
                # A guess on some of the queries spares most of the efforts the rest.
                if self.recall(index, min(TUNING_QUERIES, len(self.queries))) < target - 0.01:
                    continue
                recall = self.recall(index, len(self.queries))
                if recall < target:
                    continue
                answer = {"index": name, "effort": effort, "recall": recall,
                          "cpu_us": self.cost(index, 1)["cpu_us"]}
                print(json.dumps(answer), file=sys.stderr)
                if target not in self.best or answer["cpu_us"] < self.best[target][1]["cpu_us"]:
                    self.best[target] = (index, answer)
                break
        if target not in self.best:
            sys.exit(f"no index reaches recall {target}")
        return self.best[target][1]

    def cost(self, index, rows):
        """Processor time and rate by the queries' number, latency by the call."""
        ms = []
        cpu, start = time.process_time(), time.time()
        calls = len(self.queries) // rows
        for call in range(calls):
            begin = time.perf_counter()
            index.search(self.queries[call * rows : (call + 1) * rows])
            ms.append(1e3 * (time.perf_counter() - begin))
        queries = calls * rows
        return {"cpu_us": 1e6 * (time.process_time() - cpu) / queries, "p50_ms": float(np.median(ms)),
                "per_second": queries / (time.time() - start)}

    def answer(self, what, target):
        tuned = self.tune(target)
        if what == "tune":
            return tuned
        index = self.best[target][0]
        index.set_effort(tuned["effort"])
        return self.cost(index, BATCH if what == "batch" else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--index", action="append", choices=list(INDEXES))
    parser.add_argument("--build-threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.index = options.index or list(INDEXES)
    baseline = Baseline(options)
    for line in sys.stdin:
        what, target = line.split()
        print(json.dumps(baseline.answer(what, float(target))), flush=True)


if __name__ == "__main__":
    main()
