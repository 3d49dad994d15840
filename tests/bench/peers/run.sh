#!/usr/bin/env bash
# Measures quernd beside other servers, in an environment of its own under the cache folder.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
usage: tests/bench/peers/run.sh encode [--json FILE] [--rounds N] [--seconds S]
       tests/bench/peers/run.sh search [--items N] [--images DIR --captions FILE.tsv] [--only SERVER]
                                       [--json FILE] [--rounds N] [--seconds S]

  encode  text embedding beside Triton and infinity-emb
  search  searches, ingest, memory, disk and restart beside Redis Stack, Milvus and PostgreSQL with
          pgvector; its data is that of scripts/bench search, where --items, --images and --captions
          are explained. --only redis, milvus, pgvector or quernd-fp32; repeatable

The first run installs the peers: 3 GB to download and 6 GB of disk for encode, 0.4 and 1.2 GB for
search. After it encode takes about 5 minutes, search of 100,000 vectors about 25.

Example:
  tests/bench/peers/run.sh encode --json peers.json
  tests/bench/peers/run.sh search --items 10000 --only redis
END_OF_USAGE
}

case ${1-} in
  encode | search) peers=$1 ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
shift

folder=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source-path=SCRIPTDIR source=../../../scripts/lib.sh
source scripts/lib.sh

# Of `search` some arguments are about its data.
data_arguments=() arguments=()
if [[ $peers == search ]]; then
  while (($#)); do
    case $1 in
      --items) data_arguments+=("$1" "$2"); shift 2 ;;
      --images | --captions) data_arguments+=("$1" "$(cd "$folder" && realpath "$2")"); shift 2 ;;
      *) arguments+=("$1"); shift ;;
    esac
  done
else
  arguments=("$@")
fi

install_peers() {
  need_space "$1" "The peers' environment"
  rm -rf "$environment"
  # Debian's Python: the library that Triton loads has to be of the same release.
  quietly /usr/bin/python3 -m venv "$environment"
  quietly "$environment/bin/pip" install -r "$requirements"
  printf '%s\n' "$key" >"$environment/.complete"
}

scripts/setup
case $peers in
  encode) megabytes=10000 targets=(quernd encode_bench grpc_load) ;;
  search) megabytes=2000 targets=(quernd grpc_load tcp_load) ;;
esac
requirements=$PWD/tests/bench/peers/requirements-$peers.txt
environment=$QUERN_CACHE/peers/$peers
key=$(key_of "$(<"$requirements")")
is_complete "$environment" "$key" || step "Installing the peers" install_peers "$megabytes"
build release "${targets[@]}"
if [[ $peers == search ]]; then
  data=$(tests/bench/search/run.sh --data-only "${data_arguments[@]}")
  arguments+=(--data "$data" --proto "$QUERN_ROOT/proto" --scratch "$QUERN_CACHE/bench")
else
  arguments+=(--package "$QUERN_CACHE/models/quern-lite")
fi
cd "$folder"
exec "$environment/bin/python" "$QUERN_ROOT/tests/bench/peers/$peers.py" \
  --bin "$QUERN_ROOT/build/release/bin" "${arguments[@]}"
