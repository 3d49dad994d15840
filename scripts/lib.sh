# shellcheck shell=bash
# What the scripts share. Source it after `set -euo pipefail`.

QUERN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
QUERN_CACHE=${QUERN_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or QUERN_CACHE}/.cache}/quern}
if [[ $QUERN_CACHE != /* ]]; then QUERN_CACHE=$PWD/$QUERN_CACHE; fi
export QUERN_ROOT QUERN_CACHE

# Folders are built here and renamed into place when finished. It lies inside the cache so
# that the rename stays within one file system, and no small /tmp fills up.
work=$QUERN_CACHE/.work
log=$QUERN_CACHE/setup.log

say() { printf '%s\n' "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

as_root() {
  if ((EUID == 0)); then "$@"; else sudo -- "$@"; fi
}

can_become_root() { ((EUID == 0)) || command -v sudo >/dev/null; }

# step TITLE COMMAND...: one line before, the seconds after.
step() {
  local title=$1 start=$EPOCHREALTIME
  shift
  printf '%s ...\n' "$title"
  "$@"
  printf '  done in %d s\n' $(((${EPOCHREALTIME/[.,]/} - ${start/[.,]/} + 500000) / 1000000))
}

# quietly COMMAND...: output goes to the log. On failure prints the log's end and, where the
# cause is a usual one, the cure.
quietly() {
  local code=0
  printf '\n$ %s\n' "$*" >"$log.last"
  "$@" >>"$log.last" 2>&1 || code=$?
  cat "$log.last" >>"$log"
  if ((code == 0)); then return 0; fi
  tail -n 15 "$log.last" >&2
  explain_failure "$log.last" >&2
  die "this failed (status $code): ${*:1:4} - the whole output is in $log. Running this script again continues here."
}

explain_failure() {
  if grep -qiE 'no space left on device|not enough free disk space' "$1"; then
    say "The disk is full. Free some space, or point QUERN_CACHE at a larger disk."
  elif grep -qiE 'hash(es)? .*(mismatch|do not match)|checksum' "$1"; then
    say "A download is not what was pinned: a mirror or proxy has changed it, or it broke off. Try again, or use another mirror."
  elif grep -qiE 'certificate verify failed|SSLError' "$1"; then
    say "The server's certificate is not trusted. Behind a proxy with its own certificate, set PIP_CERT to that certificate."
  elif grep -qiE 'temporary failure resolving|name or service not known|name resolution|connection (refused|timed out|reset)|network is unreachable|could not connect|failed to establish|read timed out|max retries|unable to connect' "$1"; then
    say "The network cannot be reached. Check the connection, and the proxy or mirror settings of apt and pip."
  elif grep -qiE 'no matching distribution|could not find a version' "$1"; then
    say "The Python registry could not be reached, or the configured mirror lacks this version. Check pip's index settings (PIP_INDEX_URL, pip.conf)."
  elif grep -qiE 'unable to locate package|has no installation candidate' "$1"; then
    say "The configured apt sources lack a package. Debian's own \"main\" must be among them."
  fi
}

# need_space MEGABYTES FOR_WHAT
need_space() {
  local free_mb
  free_mb=$(($(df --output=avail -k "$QUERN_CACHE" | tail -n 1) / 1024))
  if ((free_mb < $1)); then
    die "$2 needs $1 MB of disk, but only $free_mb MB are free at $QUERN_CACHE. Free some space, or point QUERN_CACHE at a larger disk."
  fi
}

# Compilations at once: as many as there are cores and gigabytes of memory.
# QUERN_JOBS overrides it.
job_count() {
  local cores gigabytes
  cores=$(nproc)
  gigabytes=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
  if ((gigabytes < 1)); then gigabytes=1; fi
  say "${QUERN_JOBS:-$((cores < gigabytes ? cores : gigabytes))}"
}

# key_of TEXT...: names a recipe; a folder made by another recipe is made again.
key_of() { printf '%s\n' "$@" | sha256sum | cut -c1-16; }

# is_complete FOLDER KEY
is_complete() { [[ -f $1/.complete && $(<"$1/.complete") == "$2" ]]; }

# fresh_work: an empty scratch folder. Whatever an interrupted run left goes.
fresh_work() {
  rm -rf "$work"
  mkdir -p "$work/tmp"
}

# publish FOLDER TARGET KEY: puts a finished folder in place. At no moment does TARGET hold
# a .complete beside unfinished contents, even if the machine stops.
publish() {
  local folder=$1 target=$2 key=$3
  printf '%s\n' "$key" >"$folder/.complete"
  sync -f "$folder"
  mkdir -p "$(dirname "$target")"
  if [[ -e $target ]]; then mv -T "$target" "$work/replaced"; fi
  mv -T "$folder" "$target"
  rm -rf "$work/replaced"
}

# unpack ARCHIVE FOLDER PATTERN: the members of a wheel or zip whose whole path matches the
# regular expression. (A bare Debian has no unzip, but setup needs Python anyway.)
unpack() {
  /usr/bin/python3 - "$@" <<'PYTHON'
import re, sys, zipfile

archive, folder, pattern = sys.argv[1:]
found = 0
with zipfile.ZipFile(archive) as wheel:
    for name in wheel.namelist():
        if re.fullmatch(pattern, name) and not name.endswith("/"):
            wheel.extract(name, folder)
            found += 1
if not found:
    sys.exit(f"{archive} holds nothing that matches {pattern}")
PYTHON
}

# build PRESET [TARGET...]: configures where needed, then builds (everything without targets).
build() {
  local preset=$1
  shift
  step "Building ($preset)" build_preset "$preset" "$@"
}

build_preset() {
  local preset=$1
  shift
  # As many objects are found again in another checkout as can be.
  export CCACHE_BASEDIR=$QUERN_ROOT CCACHE_NOHASHDIR=1
  (cd "$QUERN_ROOT" && quietly cmake --preset "$preset" "-DQUERN_CACHE=$QUERN_CACHE")
  quietly cmake --build "$QUERN_ROOT/build/$preset" --parallel "$(job_count)" ${1:+--target "$@"}
}
