# Targets torch::torch_cpu and torch::libgomp, from the LibTorch that scripts/setup unpacks.
#
# LibTorch's own find_package(Torch) insists on a CUDA toolkit, though nothing here uses
# one; these few lines are all of it that Quern needs.
#
# Its include tree also carries old copies of protobuf and fmt. Setup leaves those out, and
# SYSTEM keeps the rest behind the system's headers. Even so a file that includes torch must
# not include protobuf, abseil or spdlog: keep torch in an adapter's .cc.
include_guard(GLOBAL)

# Stops with the cure when a folder of the cache is missing or half made: setup renames a
# finished folder into place.
function(quern_require_from_cache folder)
  if(NOT EXISTS "${QUERN_CACHE}/${folder}/.complete")
    message(FATAL_ERROR
      "\"${QUERN_CACHE}/${folder}\" is missing. Run scripts/setup (for the preset cuda: with "
      "--cuda), or set QUERN_CACHE to the folder that it has filled.")
  endif()
endfunction()

set(QUERN_LIBTORCH_VERSION 2.11.0)
set(_libtorch libtorch-${QUERN_LIBTORCH_VERSION})
if(QUERN_CUDA)
  # scripts/setup --cuda: with libtorch_cuda, and all of NVIDIA's libraries that it loads.
  string(APPEND _libtorch -cuda)
endif()
quern_require_from_cache(${_libtorch})
set(QUERN_LIBTORCH_ROOT ${QUERN_CACHE}/${_libtorch})

# libtorch_cpu carries an RPATH to its neighbours, so an executable needs one RUNPATH entry,
# torch/lib, which CMake adds to the build tree by itself.
set(_libraries c10 torch_cpu)
if(QUERN_CUDA)
  list(APPEND _libraries c10_cuda torch_cuda torch_cuda_linalg)
endif()
foreach(_library IN LISTS _libraries)
  add_library(torch::${_library} SHARED IMPORTED GLOBAL)
  set_target_properties(torch::${_library} PROPERTIES
    IMPORTED_LOCATION ${QUERN_LIBTORCH_ROOT}/torch/lib/lib${_library}.so
    IMPORTED_SONAME lib${_library}.so)
  target_include_directories(torch::${_library} SYSTEM INTERFACE
    ${QUERN_LIBTORCH_ROOT}/torch/include)
endforeach()
unset(_library)
target_include_directories(torch::torch_cpu SYSTEM INTERFACE
  ${QUERN_LIBTORCH_ROOT}/torch/include/torch/csrc/api/include)
target_link_libraries(torch::torch_cpu INTERFACE torch::c10)
if(QUERN_CUDA)
  # Nothing calls them: LibTorch finds its GPU functions in libraries that are loaded. So
  # they are lost where the linker is told --as-needed.
  target_link_libraries(torch::torch_cpu INTERFACE
    torch::torch_cuda torch::torch_cuda_linalg torch::c10_cuda)
endif()

# LibTorch brings its OpenMP runtime. Everything else that needs one links this very file,
# so that a process never holds two.
add_library(torch::libgomp SHARED IMPORTED GLOBAL)
set_target_properties(torch::libgomp PROPERTIES
  IMPORTED_LOCATION ${QUERN_LIBTORCH_ROOT}/torch/lib/libgomp.so.1
  IMPORTED_SONAME libgomp.so.1)

# Installs what LibTorch needs at run time under `destination` (relative to the prefix), in
# the layout that its RPATH expects. An executable installed in bin/ then wants
#   INSTALL_RPATH "$ORIGIN/../<destination>/torch/lib"
function(quern_install_libtorch destination)
  install(DIRECTORY ${QUERN_LIBTORCH_ROOT}/torch/lib DESTINATION ${destination}/torch
    USE_SOURCE_PERMISSIONS)
  install(DIRECTORY ${QUERN_LIBTORCH_ROOT}/nvidia DESTINATION ${destination}
    USE_SOURCE_PERMISSIONS)
  install(DIRECTORY ${QUERN_LIBTORCH_ROOT}/licenses DESTINATION ${destination})
endfunction()
