#include "engine/index/gpu_device.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "faiss/IndexFlat.h"
#include "faiss/IndexIVFFlat.h"
#include "faiss/IndexScalarQuantizer.h"
#include "faiss/gpu/GpuIndexFlat.h"
#include "faiss/gpu/GpuIndexIVFFlat.h"
#include "faiss/gpu/GpuIndexIVFScalarQuantizer.h"
#include "faiss/gpu/StandardGpuResources.h"
#include <cuda_runtime_api.h>
#include <omp.h>

#include "engine/base/error.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

using idx_t = faiss::Index::idx_t;

constexpr absl::string_view kLibrary = "FAISS on the GPU";
constexpr int64_t kScratchBytes = int64_t{256} << 20;
constexpr size_t kPinnedBytes = size_t{16} << 20;

// As Guard(), with what FAISS says when its memory does not last told apart.
// Everything else may be CUDA's, whose errors stay: `broken` becomes true.
template <typename Call>
auto GuardGpu(std::atomic<bool>* broken, const Call& call) {
  auto result = Guard(kLibrary, call);
  const absl::Status status = [&result] {
    if constexpr (std::is_same_v<decltype(result), absl::Status>) {
      return result;
    } else {
      return result.status();
    }
  }();
  if (status.ok() || absl::IsResourceExhausted(status)) return result;
  if (absl::StrContains(status.message(), "alloc fail") ||
      absl::StrContains(status.message(), "out of memory")) {
    result = absl::ResourceExhaustedError(status.message());
  } else {
    *broken = true;
  }
  return result;
}

absl::Status CudaStatus(cudaError_t error, absl::string_view doing) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(doing, ": ", cudaGetErrorString(error)));
}

// What a GPU and its indexes share.
struct GpuState {
  int number = 0;
  std::shared_ptr<faiss::gpu::GpuResources> resources;
  // Nothing of FAISS's can be destroyed any more: its destructors would throw.
  std::atomic<bool> broken = false;
};

class GpuDeviceIndex final : public DeviceIndex {
 public:
  GpuDeviceIndex(std::shared_ptr<GpuState> state,
                 std::unique_ptr<faiss::gpu::GpuIndex> index)
      : state_(std::move(state)), index_(std::move(index)) {}

  ~GpuDeviceIndex() override {
    if (state_->broken) static_cast<void>(index_.release());
  }

  absl::StatusOr<DeviceHits> Search(MatrixView queries, int64_t k,
                                    int64_t lists) override {
    return GuardGpu(&state_->broken, [&]() -> absl::StatusOr<DeviceHits> {
      DeviceHits hits;
      hits.scores.resize(queries.rows * k);
      hits.rows.resize(queries.rows * k, -1);
      faiss::SearchParametersIVF parameters;
      parameters.nprobe = static_cast<size_t>(lists);
      static_assert(sizeof(idx_t) == sizeof(int64_t));
      index_->search(queries.rows, queries.data, k, hits.scores.data(),
                     hits.rows.data(), lists > 0 ? &parameters : nullptr);
      return hits;
    });
  }

 private:
  const std::shared_ptr<GpuState> state_;
  std::unique_ptr<faiss::gpu::GpuIndex> index_;
};

template <typename Config>
Config ConfigFor(const GpuState& state) {
  Config config;
  config.device = state.number;
  return config;
}

template <typename Config>
Config ListConfigFor(const GpuState& state) {
  auto config = ConfigFor<Config>(state);
  config.indicesOptions = faiss::gpu::INDICES_32_BIT;
  config.flatConfig.device = state.number;
  return config;
}

std::unique_ptr<faiss::gpu::GpuIndex> CopyToGpu(const GpuState& state,
                                                const faiss::Index& rows,
                                                VectorStorage storage) {
  faiss::gpu::GpuResourcesProviderFromInstance provider(state.resources);
  if (const auto* flat = dynamic_cast<const faiss::IndexFlat*>(&rows)) {
    auto config = ConfigFor<faiss::gpu::GpuIndexFlatConfig>(state);
    config.useFloat16 = storage == VectorStorage::kFp16;
    auto copy = std::make_unique<faiss::gpu::GpuIndexFlatIP>(
        &provider, static_cast<int>(flat->d), config);
    // At once: room is then reserved for just these.
    copy->add(flat->ntotal, flat->get_xb());
    return copy;
  }
  if (const auto* lists = dynamic_cast<const faiss::IndexIVFFlat*>(&rows)) {
    auto copy = std::make_unique<faiss::gpu::GpuIndexIVFFlat>(
        &provider, static_cast<int>(lists->d), static_cast<int>(lists->nlist),
        lists->metric_type,
        ListConfigFor<faiss::gpu::GpuIndexIVFFlatConfig>(state));
    copy->copyFrom(lists);
    return copy;
  }
  const auto& halves =
      dynamic_cast<const faiss::IndexIVFScalarQuantizer&>(rows);
  auto copy = std::make_unique<faiss::gpu::GpuIndexIVFScalarQuantizer>(
      &provider, static_cast<int>(halves.d), static_cast<int>(halves.nlist),
      halves.sq.qtype, halves.metric_type, halves.by_residual,
      ListConfigFor<faiss::gpu::GpuIndexIVFScalarQuantizerConfig>(state));
  copy->copyFrom(&halves);
  return copy;
}

class GpuDevice final : public Device {
 public:
  explicit GpuDevice(std::shared_ptr<GpuState> state)
      : state_(std::move(state)) {}

  ~GpuDevice() override {
    if (!state_->broken) return;
    // Whoever holds the state last must not destroy what CUDA has lost.
    static_cast<void>(new std::shared_ptr<faiss::gpu::GpuResources>(
        std::move(state_->resources)));
  }

  absl::StatusOr<int64_t> FreeBytes() override {
    size_t free = 0;
    size_t total = 0;
    QUERN_RETURN_IF_ERROR(CudaStatus(cudaMemGetInfo(&free, &total),
                                     "asking for the GPU's free memory"));
    return static_cast<int64_t>(free);
  }

  int64_t scratch_bytes() const override { return kScratchBytes; }

  absl::StatusOr<std::unique_ptr<DeviceIndex>> Load(
      const faiss::Index& rows, VectorStorage storage) override {
    using Result = absl::StatusOr<std::unique_ptr<DeviceIndex>>;
    return GuardGpu(&state_->broken, [&]() -> Result {
      return std::make_unique<GpuDeviceIndex>(
          state_, CopyToGpu(*state_, rows, storage));
    });
  }

 private:
  const std::shared_ptr<GpuState> state_;
};

}  // namespace

bool HasGpuDevices() { return true; }

absl::StatusOr<std::unique_ptr<Device>> OpenGpuDevice(const std::string& name) {
  absl::string_view digits = name;
  auto state = std::make_shared<GpuState>();
  if (!absl::ConsumePrefix(&digits, "cuda:") ||
      !absl::SimpleAtoi(digits, &state->number) || state->number < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(Quoted(name), " is not cuda:N"));
  }
  omp_set_num_threads(1);  // Of this thread, which is the device's.
  int count = 0;
  QUERN_RETURN_IF_ERROR(
      CudaStatus(cudaGetDeviceCount(&count), "looking for GPUs"));
  if (state->number >= count) {
    return absl::FailedPreconditionError(absl::StrCat(
        "there are ", count, " GPUs: choose one of cuda:0 and following"));
  }
  QUERN_RETURN_IF_ERROR(
      CudaStatus(cudaSetDevice(state->number), "choosing the GPU"));
  QUERN_RETURN_IF_ERROR(GuardGpu(&state->broken, [&] {
    faiss::gpu::StandardGpuResources resources;
    resources.setTempMemory(kScratchBytes);
    resources.setPinnedMemory(kPinnedBytes);
    state->resources = resources.getResources();
    state->resources->initializeForDevice(state->number);
  }));
  return std::make_unique<GpuDevice>(std::move(state));
}

}  // namespace quern
