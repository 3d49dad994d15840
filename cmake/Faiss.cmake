# Target faiss::faiss: FAISS built for AVX2 by scripts/setup, with a BLAS of its own.
#
# libtorch_cpu exports a BLAS (MKL's) under the usual names. Were FAISS to ask for `sgemm_`,
# the order of libraries on the link line would decide whose it gets, and an OpenBLAS in the
# executable could even replace MKL inside LibTorch. So setup renames every OpenBLAS symbol
# that FAISS uses to `faissblas_…`, in both archives: the two cannot meet, in any link order.
# It is the serial OpenBLAS: the threaded one takes so much static TLS that, beside LibTorch,
# threads with small stacks no longer start.
#
# FAISS starts an OpenMP team per calling thread, and by default its idle members spin: on
# busy cores that made the training of a small PQ a hundred times slower. A thread that
# serves requests calls omp_set_num_threads(1) first, and the process runs with
# OMP_WAIT_POLICY=PASSIVE.
include_guard(GLOBAL)
include(${CMAKE_CURRENT_LIST_DIR}/LibTorch.cmake)  # torch::libgomp

set(QUERN_FAISS_VERSION 1.7.3)
if(QUERN_CUDA)
  # scripts/setup --cuda: the same sources, with what they have for GPUs.
  set(_faiss faiss-${QUERN_FAISS_VERSION}-avx2-cuda)
  find_package(CUDAToolkit 13 REQUIRED)  # Its headers.
else()
  set(_faiss faiss-${QUERN_FAISS_VERSION}-avx2)
endif()
quern_require_from_cache(${_faiss})
set(QUERN_FAISS_ROOT ${QUERN_CACHE}/${_faiss})

# OpenBLAS's LAPACK is Fortran and takes a few functions from its runtime: linked statically,
# so that no Fortran library is needed where the server runs.
add_library(faiss::blas STATIC IMPORTED GLOBAL)
set_target_properties(faiss::blas PROPERTIES
  IMPORTED_LOCATION ${QUERN_FAISS_ROOT}/lib/libfaissblas.a
  INTERFACE_LINK_LIBRARIES "-l:libgfortran.a;-l:libquadmath.a;m")

add_library(faiss::faiss STATIC IMPORTED GLOBAL)
set_target_properties(faiss::faiss PROPERTIES
  IMPORTED_LOCATION ${QUERN_FAISS_ROOT}/lib/libfaiss_avx2.a)
target_include_directories(faiss::faiss SYSTEM INTERFACE ${QUERN_FAISS_ROOT}/include)
target_compile_definitions(faiss::faiss INTERFACE FINTEGER=int)
target_link_libraries(faiss::faiss INTERFACE faiss::blas torch::libgomp)
if(QUERN_CUDA)
  target_include_directories(faiss::faiss SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  # Those that LibTorch loads: a process never holds two.
  foreach(_library cudart cublas)
    add_library(faiss::${_library} SHARED IMPORTED GLOBAL)
    set_target_properties(faiss::${_library} PROPERTIES
      IMPORTED_LOCATION ${QUERN_LIBTORCH_ROOT}/nvidia/cu13/lib/lib${_library}.so.13
      IMPORTED_SONAME lib${_library}.so.13)
    target_link_libraries(faiss::faiss INTERFACE faiss::${_library})
  endforeach()
endif()
