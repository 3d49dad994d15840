# shellcheck shell=bash disable=SC2034
# Everything scripts/setup fetches, in one place. What comes from the Python registry is
# pinned, with hashes, in requirements-*.txt beside this file.

debian_release=12
debian_codename=bookworm

libtorch_version=2.11.0
# Raise this when the folder's contents change though the pinned wheels do not.
libtorch_recipe=1

faiss_version=1.7.3
faiss_debian_version=1.7.3-2
faiss_recipe=1
faiss_cuda_recipe=1
libtorch_cuda_recipe=1
faiss_sha256='
3e4fac26d8c9e9008ecea4ae5fc414c658998fce4ba75835058b1a71d3516002  faiss_1.7.3.orig.tar.gz
a351977533afa5575b21de74a58cacb66d846006b1ef971bed85e01e66eb7f94  faiss_1.7.3-2.debian.tar.xz
432937bbdfc7e14783685762e360b68f9ab74f1599319697d756b27585e83dbd  faiss_1.7.3-2.dsc'

sentencepiece_version=0.1.97
sentencepiece_debian_version=0.1.97-3
sentencepiece_recipe=1
sentencepiece_sha256='
56430381f45dc6debfd2e0cbde4f039f9499c49ca825af184b0cbf318c17a18f  sentencepiece_0.1.97.orig.tar.gz
6aaa1a376752f204107e4fcb816115c4eb401dfc9ce50aa6b245e9b2ee5a63ee  sentencepiece_0.1.97-3.debian.tar.xz
83d8ea8bcd06b4c327bd6d1a0de7835542872a8b42070baf583522daa3c9bae5  sentencepiece_0.1.97-3.dsc'

stamps_package=tuxpaint-stamps-default
stamps_version=2022.06.04-1
stamps_sha256=6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34

# What the build needs, from Debian.
build_packages=(
  # tools
  ca-certificates ccache cmake dpkg-dev g++ libgfortran-12-dev lld ninja-build pkg-config
  python3 python3-venv
  # RPC and base libraries
  libabsl-dev libcli11-dev libgoogle-perftools-dev libgrpc++-dev libprotobuf-dev libspdlog-dev libssl-dev
  libyaml-cpp-dev nlohmann-json3-dev prometheus-cpp-dev protobuf-compiler
  protobuf-compiler-grpc
  # media and text
  libavcodec-dev libavformat-dev libswscale-dev libvips-dev libutf8proc-dev
  # storage and search
  libarchive-dev libopenblas-serial-dev libroaring-dev librocksdb-dev zlib1g-dev
)
# What the tests and benchmarks need besides.
test_packages=(libbenchmark-dev libgmock-dev libgtest-dev)
# What a contributor needs besides: formatting, static analysis and fuzzing.
dev_packages=(clang-14 clang-format-14 clang-tidy-14 git libclang-rt-14-dev shellcheck)
