#!/usr/bin/env bash
# Measures quernd beside other servers, in an environment of its own under the cache folder.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
usage: tests/bench/peers/run.sh encode [--json FILE] [--rounds N] [--seconds S]

  encode  text embedding beside Triton and infinity-emb

The first run installs the peers: 3 GB to download, 6 GB of disk. Takes about 5 minutes after it.

Example:
  tests/bench/peers/run.sh encode --json peers.json
END_OF_USAGE
}

case ${1-} in
  encode) peers=$1 ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
shift

folder=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source-path=SCRIPTDIR source=../../../scripts/lib.sh
source scripts/lib.sh

install_peers() {
  need_space 10000 "The peers' environment"
  rm -rf "$environment"
  # Debian's Python: the library that Triton loads has to be of the same release.
  quietly /usr/bin/python3 -m venv "$environment"
  quietly "$environment/bin/pip" install -r "$requirements"
  printf '%s\n' "$key" >"$environment/.complete"
}

scripts/setup
requirements=$PWD/tests/bench/peers/requirements-$peers.txt
environment=$QUERN_CACHE/peers/$peers
key=$(key_of "$(<"$requirements")")
is_complete "$environment" "$key" || step "Installing the peers" install_peers
build release quernd encode_bench grpc_load
cd "$folder"
exec "$environment/bin/python" "$QUERN_ROOT/tests/bench/peers/$peers.py" \
  --bin "$QUERN_ROOT/build/release/bin" --package "$QUERN_CACHE/models/quern-lite" "$@"
