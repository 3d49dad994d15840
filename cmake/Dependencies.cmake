# Every third-party library the product links, as one imported target each.
# Versions and origins: scripts/setup.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
if(QUERN_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
pkg_check_modules(rocksdb REQUIRED IMPORTED_TARGET rocksdb)
pkg_check_modules(vips REQUIRED IMPORTED_TARGET vips)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(yaml REQUIRED IMPORTED_TARGET yaml-cpp)
pkg_check_modules(crypto REQUIRED IMPORTED_TARGET libcrypto)

include(LibTorch)
include(Faiss)
include(SentencePiece)
