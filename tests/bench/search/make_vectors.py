"""Grows the embeddings of a few thousand pictures into as many vectors as are wanted.

    make_vectors.py --corpus DIR --rows N --out DIR [--seed N] [--scale S]

Reads pictures.npy and captions.npy (embed_corpus makes them) and writes, as float32 and int64:

    vectors.npy      N x d, unit length; the pictures' own are among them, in random order
    queries.npy      1,000 x d, captions
    truth.npy        1,000 x 100, the rows with the largest inner product, best first
    calibration.npy  1,000 x d, captions of other pictures, for an index to tune itself on
    filtered-P.npy   200 x 10, the same as truth for rows whose number modulo 2,000 is below P

A new vector is a picture's, moved by a random combination of the differences to its 32 nearest
pictures: a normal distribution with their second moment, times a scale. So it varies along the
directions in which real neighbours do, and as far. check() prints how 6,000 of the vectors compare
with the 6,000 pictures: distances, intrinsic dimension, recall against probes and beams.
"""

import argparse
import os

import faiss
import numpy as np

NEIGHBOURS = 32
QUERIES = 1000
TRUTH = 100
FILTER_QUERIES = 200
FILTER_MODULUS = 2000
FILTER_BOUNDS = (1000, 100, 10, 1)  # 50 %, 5 %, 0.5 %, 0.05 %
RECALL_AT = 10
CHUNK = 50_000


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nearest(queries, rows, count):
    """Scores and row numbers of the largest inner products, best first."""
    return faiss.knn(queries, rows, count, metric=faiss.METRIC_INNER_PRODUCT)


def grow(pictures, out, random, scale):
    """Fills `out` with the pictures and what is made around them, in random order."""
    place = random.permutation(len(out))
    out[place[: len(pictures)]] = pictures
    place = place[len(pictures) :]
    neighbours = nearest(pictures, pictures, NEIGHBOURS + 1)[1][:, 1:]
    for share, places in enumerate(np.array_split(place, len(pictures))):
        differences = pictures[neighbours[share]] - pictures[share]
        weights = random.standard_normal((len(places), NEIGHBOURS), dtype=np.float32)
        moved = weights @ differences * (scale / np.sqrt(NEIGHBOURS))
        out[places] = unit(pictures[share] + moved)


def split_captions(captions, pictures, random):
    """Queries and, of other pictures, those for calibration."""
    per_picture = len(captions) // len(pictures)
    order = random.permutation(len(pictures))
    rows = random.integers(per_picture, size=len(pictures)) + order * per_picture
    wanted = min(QUERIES, len(pictures) // 2)
    return captions[rows[:wanted]], captions[rows[wanted : 2 * wanted]]


def truth_of(queries, vectors, count, step=1, below=1):
    """`nearest` among the rows whose number modulo `step` is below `below`."""
    scores, rows = [], []
    for first in range(0, len(vectors), CHUNK):
        chunk = np.asarray(vectors[first : first + CHUNK])
        kept = np.flatnonzero(np.arange(first, first + len(chunk)) % step < below)
        if len(kept) == 0:
            continue
        chunk = np.ascontiguousarray(chunk[kept])
        best = nearest(queries, chunk, min(count, len(chunk)))
        scores.append(best[0])
        rows.append(kept[best[1]] + first)
    scores, rows = np.hstack(scores), np.hstack(rows)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(rows, order, axis=1)


def recall(found, truth):
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, truth[:, :RECALL_AT])]
    return sum(hits) / truth[:, :RECALL_AT].size


def describe(rows, queries):
    """What makes a set easy or hard, as one column of the table."""
    rows = np.ascontiguousarray(rows)
    distances = np.sqrt(np.maximum(2 - 2 * nearest(rows, rows, 21)[0][:, 1:], 1e-12))
    # Levina and Bickel 2004, eq. 8, at 20 neighbours.
    dimension = 1 / np.mean(np.log(distances[:, -1:] / distances[:, :-1]), axis=1)
    scores, truth = nearest(queries, rows, RECALL_AT)
    column = {
        "distance to the nearest, median": np.median(distances[:, 0]),
        "distance to the 10th, median": np.median(distances[:, 9]),
        "intrinsic dimension, median": np.median(dimension),
        "score of a caption's best, median": np.median(scores[:, 0]),
        "score of its 10th, median": np.median(scores[:, -1]),
    }
    lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], 64,
                               faiss.METRIC_INNER_PRODUCT)
    lists.train(rows)
    lists.add(rows)
    for probes in (1, 2, 4, 8, 16, 32):
        lists.nprobe = probes
        column[f"recall@10, {probes} of 64 lists"] = recall(
            lists.search(queries, RECALL_AT)[1], truth)
    graph = faiss.IndexHNSWFlat(rows.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    graph.add(rows)
    for beam in (10, 20, 40, 80):
        graph.hnsw.efSearch = beam
        column[f"recall@10, graph, beam {beam}"] = recall(
            graph.search(queries, RECALL_AT)[1], truth)
    return column


def check(pictures, vectors, queries, random):
    subset = np.sort(random.choice(len(vectors), len(pictures), replace=False))
    real = describe(pictures, queries)
    grown = describe(vectors[subset], queries)
    print(f"{len(pictures)} vectors each{'':24} {'real':>8} {'grown':>8}")
    for name, value in real.items():
        print(f"{name:40} {value:8.3f} {grown[name]:8.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True, help="folder of pictures.npy and captions.npy")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--no-check", action="store_true", help="leave out the comparison")
    options = parser.parse_args()

    pictures = unit(np.load(os.path.join(options.corpus, "pictures.npy")))
    captions = unit(np.load(os.path.join(options.corpus, "captions.npy")))
    if options.rows < len(pictures):
        parser.error(f"--rows is {options.rows}: give {len(pictures)} or more, the pictures' number")
    random = np.random.default_rng(options.seed)
    os.makedirs(options.out, exist_ok=True)

    def path(name):
        return os.path.join(options.out, name)

    queries, calibration = split_captions(captions, pictures, random)
    np.save(path("queries.npy"), queries)
    np.save(path("calibration.npy"), calibration)
    vectors = np.lib.format.open_memmap(
        path("vectors.npy"), mode="w+", dtype=np.float32, shape=(options.rows, pictures.shape[1]))
    grow(pictures, vectors, random, options.scale)
    vectors.flush()
    np.save(path("truth.npy"), truth_of(queries, vectors, TRUTH))
    for below in FILTER_BOUNDS:
        np.save(path(f"filtered-{below}.npy"),
                truth_of(queries[:FILTER_QUERIES], vectors, RECALL_AT, FILTER_MODULUS, below))
    if not options.no_check:
        check(pictures, vectors, queries, random)


if __name__ == "__main__":
    main()
