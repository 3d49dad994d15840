# shellcheck shell=bash disable=SC2154
# What scripts/setup --cuda makes for the preset cuda, beside what every preset uses.

cuda_home=${QUERN_CUDA_HOME:-/usr/local/cuda}
cuda_architectures=${QUERN_CUDA_ARCHITECTURES:-90}

# --- LibTorch --------------------------------------------------------------------------------

setup_libtorch_cuda() {
  local target=$QUERN_CACHE/libtorch-$libtorch_version-cuda key
  key=$(key_of "$libtorch_cuda_recipe" "$(<"$QUERN_ROOT/scripts/requirements-libtorch-cuda.txt")")
  if is_complete "$target" "$key"; then return 0; fi
  need_space 8000 "LibTorch for GPUs"
  step "LibTorch $libtorch_version for GPUs (2.6 GB to fetch, 4 GB kept)" \
    make_libtorch_cuda "$target" "$key"
}

make_libtorch_cuda() {
  local target=$1 key=$2 wheels=$work/wheels root=$work/libtorch wheel folder
  fresh_work
  fetch_wheels "$QUERN_ROOT/scripts/requirements-libtorch-cuda.txt" "$wheels"
  quietly unpack "$wheels"/torch-*.whl "$root" \
    'torch/include/(ATen|c10|torch|caffe2)/.*|torch/lib/lib(torch_cpu|torch_cuda|torch_cuda_linalg|torch_nvshmem|c10|c10_cuda|caffe2_nvrtc)\.so|torch/lib/libgomp\.so\.1'
  for wheel in "$wheels"/nvidia_*.whl; do
    quietly unpack "$wheel" "$root" 'nvidia/[^/]+/lib/[^/]+\.so[.0-9]*'
  done
  for wheel in "$wheels"/*.whl; do
    # One of them names its licence in its METADATA alone.
    quietly unpack "$wheel" "$work/licenses" '[^/]+\.dist-info/(licenses/[^/]+|METADATA)'
  done
  mkdir "$root/licenses"
  for folder in "$work"/licenses/*.dist-info; do
    mv "$folder" "$root/licenses/$(basename "$folder" .dist-info)"
  done
  rm -rf "$wheels"

  cat >"$work/check.cc" <<'CHECK'
#include <ATen/detail/CUDAHooksInterface.h>
int main() { return at::detail::getCUDAHooks().hasCUDART() ? 0 : 1; }
CHECK
  # It loads, with or without a GPU: all of its libraries are there.
  quietly g++ -std=c++20 -isystem "$root/torch/include" "$work/check.cc" -o "$work/check" \
    -Wl,--no-as-needed "$root"/torch/lib/lib{torch_cuda_linalg,torch_cuda,c10_cuda,torch_cpu,c10}.so \
    "-Wl,-rpath,$root/torch/lib" -Wl,--allow-shlib-undefined
  quietly "$work/check"
  publish "$root" "$target" "$key"
}

# --- FAISS -----------------------------------------------------------------------------------

setup_faiss_cuda() {
  local target=$QUERN_CACHE/faiss-$faiss_version-avx2-cuda key
  [[ -x $cuda_home/bin/nvcc ]] ||
    die "there is no CUDA toolkit at $cuda_home. Install CUDA 13, or point QUERN_CUDA_HOME at it."
  key=$(key_of "$faiss_cuda_recipe" "$faiss_sha256" "$cuda_architectures" \
    "$("$cuda_home/bin/nvcc" --version)" "$(dpkg-query -W -f '${Version}' libopenblas-serial-dev)")
  if is_complete "$target" "$key"; then return 0; fi
  need_space 2000 "FAISS for GPUs"
  step "FAISS $faiss_version for GPUs from Debian's source (20-60 minutes on 2 cores)" \
    make_faiss_cuda "$target" "$key"
}

make_faiss_cuda() {
  local target=$1 key=$2 build=$QUERN_CACHE/.work-cuda root=$work/faiss tree
  tree=$build/source/tree
  fresh_work
  # It takes so long that an interrupted build is gone on with.
  if ! is_complete "$build/source" "$key"; then
    rm -rf "$build"
    unpack_faiss "$build/source"
    prepare_faiss_for_cuda "$tree"
    printf '%s\n' "$key" >"$build/source/.complete"
  fi
  quietly cmake -S "$tree" -B "$build/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    "-DCMAKE_CXX_FLAGS=-ffile-prefix-map=$tree/= -ffunction-sections -fdata-sections" \
    "-DCMAKE_CUDA_FLAGS=-Xcompiler=-ffile-prefix-map=$tree/=" -DCMAKE_CUDA_STANDARD=17 \
    "-DCMAKE_CUDA_ARCHITECTURES=$cuda_architectures" \
    "-DCMAKE_CUDA_COMPILER=$cuda_home/bin/nvcc" "-DCUDAToolkit_ROOT=$cuda_home" \
    -DFAISS_OPT_LEVEL=avx2 -DFAISS_ENABLE_GPU=ON -DFAISS_ENABLE_PYTHON=OFF \
    -DBUILD_TESTING=OFF -DBUILD_SHARED_LIBS=OFF -DBLA_VENDOR=OpenBLAS
  quietly cmake --build "$build/build" --target faiss_avx2 --parallel "$(job_count)"

  mkdir -p "$root/lib" "$root/include/faiss" "$root/licenses"
  (cd "$tree/faiss" && find . -name '*.h' -not -path './python/*' -not -path './gpu/test/*' \
    -not -path './gpu/perf/*' -exec cp --parents -t "$root/include/faiss" {} +)
  cp "$tree/LICENSE" "$root/licenses/faiss"
  cp /usr/share/doc/libopenblas-serial-dev/copyright "$root/licenses/openblas"
  rename_blas "$build/build/faiss/libfaiss_avx2.a" "$root/lib"
  publish "$root" "$target" "$key"
  rm -rf "$build"
}

# prepare_faiss_for_cuda TREE: CUDA 13 needs C++17. And where FAISS would end the process
# because a call to CUDA failed, it throws; not so in destructors, where the error is
# CUDA's to report again: its errors stay.
prepare_faiss_for_cuda() {
  local gpu=$1/faiss/gpu
  sed -i 's/^set(CMAKE_CXX_STANDARD 11)$/set(CMAKE_CXX_STANDARD 17)/' "$1/CMakeLists.txt"
  find "$gpu" \( -path "$gpu/test" -o -path "$gpu/perf" \) -prune -o -type f -regex '.*\.\(cuh?\|cpp\|h\)' -print0 |
    xargs -0 sed -i -E 's/\bFAISS_ASSERT(_MSG|_FMT)?\(/FAISS_THROW_IF_NOT\1(/'
  sed -i '/^DeviceScope::~/,/^}/ s/setCurrentDevice(prevDevice_)/(void)cudaSetDevice(prevDevice_)/
    /^CudaEvent::~/,/^}/ s/CUDA_VERIFY(\(.*\));/(void)\1;/' "$gpu/utils/DeviceUtils.cu"
  sed -i '/::deallocMemory/,/^}/ s/err == cudaSuccess,/true,/' "$gpu/StandardGpuResources.cpp"
}
