# Target sentencepiece::processor: what encodes text, of Debian's SentencePiece source.
#
# Debian's libsentencepiece.so carries a protobuf of its own (3.14) and exports it: 1,296
# symbols under the names that libprotobuf.so.32 has, too, of another layout. In one process the
# order of libraries would decide whose code works on whose objects. So the sources are
# built with the protobuf that gRPC uses, and with the flags of the preset, which also lets the
# sanitizers and the fuzzer see into them. Its Abseil is a subset in plain `absl::`, while
# Debian's lies in an inline namespace: they cannot meet.
include_guard(GLOBAL)

set(QUERN_SENTENCEPIECE_VERSION 0.1.97)
quern_require_from_cache(sentencepiece-${QUERN_SENTENCEPIECE_VERSION})
set(_root ${QUERN_CACHE}/sentencepiece-${QUERN_SENTENCEPIECE_VERSION})

protobuf_generate_cpp(_proto_sources _proto_headers
  ${_root}/src/sentencepiece.proto ${_root}/src/sentencepiece_model.proto)
set(_generated "${CMAKE_CURRENT_BINARY_DIR}/sentencepiece")
file(CONFIGURE OUTPUT "${_generated}/config.h" @ONLY CONTENT
"#define VERSION \"@QUERN_SENTENCEPIECE_VERSION@\"
#define PACKAGE \"sentencepiece\"
#define PACKAGE_STRING \"sentencepiece\"
")
# One header asks for the protobuf that is left out.
file(CONFIGURE OUTPUT "${_generated}/third_party/protobuf-lite/google/protobuf/message_lite.h"
  CONTENT "#include <google/protobuf/message_lite.h>\n")
set(_sources)
foreach(_name bpe_model char_model error filesystem model_factory model_interface normalizer
        sentencepiece_processor unigram_model util word_model)
  list(APPEND _sources ${_root}/src/${_name}.cc)
endforeach()
add_library(quern_sentencepiece STATIC ${_sources} ${_root}/third_party/absl/flags/flag.cc
  ${_proto_sources} ${_proto_headers})
target_include_directories(quern_sentencepiece SYSTEM
  PUBLIC ${_root}/src ${CMAKE_CURRENT_BINARY_DIR}
  PRIVATE ${_generated} ${_root} ${_root}/third_party)
target_compile_definitions(quern_sentencepiece PRIVATE _USE_INTERNAL_STRING_VIEW HAVE_PTHREAD=1)
target_compile_options(quern_sentencepiece PRIVATE -w "-ffile-prefix-map=${_root}/=")
target_link_libraries(quern_sentencepiece PUBLIC protobuf::libprotobuf)
add_library(sentencepiece::processor ALIAS quern_sentencepiece)
