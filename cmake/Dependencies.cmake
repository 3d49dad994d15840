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
find_package(ZLIB REQUIRED)
if(QUERN_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
pkg_check_modules(rocksdb REQUIRED IMPORTED_TARGET rocksdb)
pkg_check_modules(vips REQUIRED IMPORTED_TARGET vips)
pkg_check_modules(ffmpeg REQUIRED IMPORTED_TARGET libavformat libavcodec libswscale libavutil)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(yaml REQUIRED IMPORTED_TARGET yaml-cpp)
pkg_check_modules(crypto REQUIRED IMPORTED_TARGET libcrypto)
pkg_check_modules(archive REQUIRED IMPORTED_TARGET libarchive)
pkg_check_modules(tcmalloc REQUIRED libtcmalloc_minimal)

# Debian's CRoaring comes without a description for either of the above.
find_library(ROARING_LIBRARY roaring REQUIRED)
add_library(roaring::roaring UNKNOWN IMPORTED)
set_target_properties(roaring::roaring PROPERTIES IMPORTED_LOCATION "${ROARING_LIBRARY}")

include(LibTorch)
include(Faiss)
include(SentencePiece)
