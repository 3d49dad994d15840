# Language level, warnings, sanitizers, and the two functions every folder uses.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")

option(QUERN_BUILD_TESTS "Build the tests and benchmarks" ON)
option(QUERN_CUDA "Search and encode on GPUs, too; needs scripts/setup --cuda" OFF)
set(QUERN_SANITIZE "" CACHE STRING "Sanitizers, as given to -fsanitize=")
option(QUERN_FUZZ "Make the fuzz targets libFuzzer's; needs clang" OFF)

# Where scripts/setup keeps what it fetched and built.
if(NOT DEFINED CACHE{QUERN_CACHE})
  if(DEFINED ENV{QUERN_CACHE})
    set(_cache "$ENV{QUERN_CACHE}")
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(_cache "$ENV{XDG_CACHE_HOME}/quern")
  else()
    set(_cache "$ENV{HOME}/.cache/quern")
  endif()
  set(QUERN_CACHE "${_cache}" CACHE PATH "Third-party builds made by scripts/setup")
endif()

# A designated initialiser that names only some members is the point of it.
add_compile_options(-Wall -Wextra -Werror -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 sees overlaps in std::string that cannot be (its bug 105329).
  add_compile_options(-Wno-restrict)
endif()
add_link_options(-fuse-ld=lld)
if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  # Line tables are enough for stack traces and keep the links small.
  add_compile_options(-O1 -g1)
endif()
if(QUERN_SANITIZE)
  add_compile_options(-fsanitize=${QUERN_SANITIZE} -fno-omit-frame-pointer)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # With sanitizers GCC takes members of a std::variant that are not its
    # active one for read; its manual warns of that.
    add_compile_options(-Wno-maybe-uninitialized)
  endif()
  add_link_options(-fsanitize=${QUERN_SANITIZE})
  if(QUERN_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
  if(QUERN_SANITIZE MATCHES "thread")
    include_directories(BEFORE "${PROJECT_SOURCE_DIR}/tests/support/tsan")
  endif()
endif()

if(QUERN_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# quern_library(NAME SRCS a.cc ... DEPS targets... [PRIVATE_DEPS targets...])
# A static library whose headers are included from the repository's root.
function(quern_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SRCS})
  target_include_directories(${name} PUBLIC "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
endfunction()

# quern_test(NAME SRCS a_test.cc ... DEPS targets... [LABELS l...] [TIMEOUT s])
# Makes an executable that encodes use TCMalloc instead of glibc's allocator (engine/README.md,
# decisions). Sanitizers bring an allocator of their own.
function(quern_use_tcmalloc target)
  if(NOT QUERN_SANITIZE)
    target_link_options(${target} PRIVATE LINKER:--push-state,--no-as-needed
      ${tcmalloc_LINK_LIBRARIES} LINKER:--pop-state)
  endif()
endfunction()

# One binary, one ctest entry named NAME. Tests run in parallel and never need
# a network beyond 127.0.0.1.
function(quern_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS;ENVIRONMENT" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  if(QUERN_SANITIZE MATCHES "thread")
    target_sources(${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests/support/tsan_mutex.cc")
    foreach(method N4absl7debian35Mutex4LockEv N4absl7debian35Mutex10ReaderLockEv
            N4absl7debian35Mutex7TryLockEv
            N4absl7debian35Mutex6UnlockEv N4absl7debian35Mutex12ReaderUnlockEv
            N4absl7debian35Mutex5AwaitERKNS0_9ConditionE
            N4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
            N4absl7debian37CondVar4WaitEPNS0_5MutexE
            N4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE
            N4absl7debian312Notification6NotifyEv NK4absl7debian312Notification19WaitForNotificationEv
            N4absl7debian315BlockingCounter14DecrementCountEv N4absl7debian315BlockingCounter4WaitEv)
      target_link_options(${name} PRIVATE -Wl,--wrap=_Z${method})
    endforeach()
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(QUERN_SANITIZE)
    math(EXPR ARG_TIMEOUT "5 * ${ARG_TIMEOUT}")
  endif()
  set_tests_properties(${name} PROPERTIES
    TIMEOUT ${ARG_TIMEOUT}
    LABELS "${ARG_LABELS}"
    ENVIRONMENT "QUERN_CACHE=${QUERN_CACHE};QUERN_BIN=${CMAKE_BINARY_DIR}/bin;${ARG_ENVIRONMENT}")
endfunction()
