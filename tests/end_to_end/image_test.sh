#!/usr/bin/env bash
# Builds the container image with buildah, which needs no daemon, and searches
# through the server in it. Behind a proxy or with certificates of your own, give
# buildah what it needs in QUERN_BUILDAH_ARGUMENTS (--volume, --env, ...).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
read -r -a extra <<<"${QUERN_BUILDAH_ARGUMENTS-}"

if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends buildah debootstrap
fi

# The base image, from the same archive as the machine's own packages.
if ! buildah inspect --type image debian:bookworm-slim >/dev/null 2>&1; then
  say "making the base image debian:bookworm-slim"
  rootfs=$(mktemp -d)
  debootstrap --variant=minbase bookworm "$rootfs" >"$log" 2>&1
  rm -rf "$rootfs"/var/cache/apt/archives/*.deb "$rootfs"/var/lib/apt/lists/* \
    "$rootfs"/usr/share/{doc,man,locale}/*
  container=$(buildah from scratch)
  buildah copy --quiet "$container" "$rootfs" / >/dev/null
  buildah config --cmd bash "$container"
  buildah commit --quiet --rm "$container" debian:bookworm-slim >/dev/null
  rm -rf "$rootfs"
fi

say "building the image"
buildah bud --format docker --pull-never "${extra[@]}" -f docker/Dockerfile -t quern .
say "image size: $(buildah images --format '{{.Size}}' quern)"

container=$(buildah from --pull-never quern)
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; buildah rm "$container" >/dev/null' EXIT
port=$((20000 + RANDOM % 20000))
# As the image says: its user, its configuration; another port, since the
# container shares this machine's network.
buildah run --user quern "$container" -- quernd --config /etc/quern/quernd.yaml \
  --set "server.address=127.0.0.1:$port" --set metrics.address= &
server=$!
for _ in $(seq 300); do
  buildah run --user quern "$container" -- quernd --health "127.0.0.1:$port" 2>/dev/null && break
  kill -0 "$server"
  sleep 0.2
done

quern=(buildah run --user quern --volume "$QUERN_CACHE/samples/pictures:/pictures:ro" "$container" -- quern --address "127.0.0.1:$port")
"${quern[@]}" index /pictures/food/fruit
best=$("${quern[@]}" search "a pineapple" --limit 1 --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["hits"][0]["id"])')
[[ $best == pineapple.png ]] || die "the best hit for \"a pineapple\" is $best"
say "the server in the image found $best"
