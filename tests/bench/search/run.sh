#!/usr/bin/env bash
# Makes the data of the search bench, once, and runs it.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
usage: scripts/bench search [--items N] [--images DIR --captions FILE.tsv] [--json FILE] [OPTION...]
       scripts/bench search --data-only [--items N] [--images DIR --captions FILE.tsv]

  --items N            vectors, grown from the pictures' embeddings; 100000 by default
  --images DIR         pictures, and
  --captions FILE.tsv  lines file<TAB>caption, five captions a picture or as many for each; without
                       them the sample pictures that scripts/setup has fetched (298: too few for
                       figures to compare)
  --data-only          makes the data and prints its folder, which is all on standard output
  OPTION...            search_bench --help lists them

The data lies in the cache folder, bench/: 2 KB a vector, and three times as much for the libraries'
indexes. 1,000,000 vectors take an hour to index on two cores.
END_OF_USAGE
}

folder=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source-path=SCRIPTDIR source=../../../scripts/lib.sh
source scripts/lib.sh

items=100000 images='' captions='' data_only='' options=()
while (($#)); do
  case $1 in
    --items) items=$2; shift 2 ;;
    --images) images=$(cd "$folder" && realpath "$2"); shift 2 ;;
    --captions) captions=$(cd "$folder" && realpath "$2"); shift 2 ;;
    --data-only) data_only=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) options+=("$1"); shift ;;
  esac
done
if [[ -n $data_only ]]; then exec 3>&1 1>&2; fi
if [[ -z $images || -z $captions ]]; then
  [[ -z $images$captions ]] || die "give --images and --captions together"
  images=$QUERN_CACHE/samples/pictures
  captions=$images/captions.tsv
  say "Growing the sample pictures: for figures to compare, give --images and --captions."
fi

here=$QUERN_ROOT/tests/bench/search
bench=$QUERN_CACHE/bench
environment=$bench/venv

install_libraries() {
  need_space 1000 "The libraries' environment"
  rm -rf "$environment"
  quietly /usr/bin/python3 -m venv "$environment"
  quietly "$environment/bin/pip" install -r "$here/requirements.txt"
  printf '%s\n' "$key" >"$environment/.complete"
}

scripts/setup
key=$(key_of "$(<"$here/requirements.txt")")
is_complete "$environment" "$key" || step "Installing faiss-cpu and hnswlib" install_libraries
targets=(embed_corpus quernd)
if [[ -z $data_only ]]; then targets+=(search_bench); fi
build release "${targets[@]}"
export QUERN_BIN=$QUERN_ROOT/build/release/bin

# Named by what they are made of.
corpus=$bench/corpus-$(key_of "$images" "$(<"$captions")")
if [[ ! -f $corpus/pictures.npy ]]; then
  step "Embedding the pictures and captions" "$QUERN_BIN/embed_corpus" \
    --images "$images" --captions "$captions" --out "$corpus"
fi
data=$corpus/$items
if ! is_complete "$data" "$(key_of "$(<"$here/make_vectors.py")")"; then
  need_space $((items * 2 / 1000 + 1000)) "The vectors"
  rm -rf "$data"
  step "Growing $items vectors" "$environment/bin/python" "$here/make_vectors.py" \
    --corpus "$corpus" --rows "$items" --out "$data"
  key_of "$(<"$here/make_vectors.py")" >"$data/.complete"
fi
if [[ -n $data_only ]]; then
  say "$data" >&3
  exit
fi
cd "$folder"
exec "$QUERN_BIN/search_bench" --data "$data" \
  --baseline "$environment/bin/python" "$here/baseline.py" "${options[@]}"
