#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "faiss/IndexFlat.h"
#include "faiss/IndexIVF.h"
#include "faiss/IndexScalarQuantizer.h"
#include "faiss/clone_index.h"
#include <omp.h>

#include "engine/index/device.h"

namespace quern {

// What a test sees and decides of a CpuDevice. Thread-safe.
class CpuDeviceProbe {
 public:
  // Asked before each search; an error is what it gives.
  std::function<absl::Status(MatrixView queries, int64_t k, int64_t lists)>
      before_search =
          [](MatrixView, int64_t, int64_t) { return absl::OkStatus(); };
  absl::Status load_status;  // Not OK: what a load gives.
  int64_t free_bytes = int64_t{1} << 30;
  int64_t scratch_bytes = int64_t{1} << 20;

  std::atomic<int> searches = 0;
  std::atomic<int> queries = 0;
  std::atomic<int> indexes = 0;  // That are loaded now.
  std::atomic<int64_t> largest_k = 0;

  void Enter() {
    absl::MutexLock lock(&mutex_);
    threads_.insert(std::this_thread::get_id());
  }
  // That have touched the device or its indexes.
  std::set<std::thread::id> threads() const {
    absl::MutexLock lock(&mutex_);
    return threads_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::set<std::thread::id> threads_ ABSL_GUARDED_BY(mutex_);
};

// What FAISS does on the processor where it would do it on a GPU, with the same
// limits.
class CpuDevice final : public Device {
 public:
  explicit CpuDevice(std::shared_ptr<CpuDeviceProbe> probe)
      : probe_(std::move(probe)) {
    probe_->Enter();
    omp_set_num_threads(1);  // Of this thread, which is the device's.
  }
  ~CpuDevice() override { probe_->Enter(); }

  absl::StatusOr<int64_t> FreeBytes() override {
    probe_->Enter();
    return probe_->free_bytes;
  }
  int64_t scratch_bytes() const override { return probe_->scratch_bytes; }

  absl::StatusOr<std::unique_ptr<DeviceIndex>> Load(
      const faiss::Index& rows, VectorStorage storage) override {
    probe_->Enter();
    if (!probe_->load_status.ok()) return probe_->load_status;
    std::unique_ptr<faiss::Index> copy;
    const auto* flat = dynamic_cast<const faiss::IndexFlat*>(&rows);
    if (flat != nullptr && storage == VectorStorage::kFp16) {
      copy = std::make_unique<faiss::IndexScalarQuantizer>(
          flat->d, faiss::ScalarQuantizer::QT_fp16,
          faiss::METRIC_INNER_PRODUCT);
      copy->add(flat->ntotal, flat->get_xb());
    } else {
      copy.reset(faiss::clone_index(&rows));
    }
    return std::make_unique<Index>(probe_, std::move(copy));
  }

 private:
  class Index final : public DeviceIndex {
   public:
    Index(std::shared_ptr<CpuDeviceProbe> probe,
          std::unique_ptr<faiss::Index> rows)
        : probe_(std::move(probe)), rows_(std::move(rows)) {
      ++probe_->indexes;
    }
    ~Index() override {
      probe_->Enter();
      --probe_->indexes;
    }

    absl::StatusOr<DeviceHits> Search(MatrixView queries, int64_t k,
                                      int64_t lists) override {
      probe_->Enter();
      ++probe_->searches;
      probe_->queries += static_cast<int>(queries.rows);
      probe_->largest_k = std::max(probe_->largest_k.load(), k);
      if (k < 1 || k > kMaxDeviceResults || lists > kMaxDeviceLists) {
        return absl::InternalError("beyond the limits of a device");
      }
      const absl::Status status = probe_->before_search(queries, k, lists);
      if (!status.ok()) return status;
      if (auto* inverted = dynamic_cast<faiss::IndexIVF*>(rows_.get())) {
        inverted->nprobe = static_cast<size_t>(lists);
      }
      DeviceHits hits{std::vector<float>(queries.rows * k),
                      std::vector<int64_t>(queries.rows * k)};
      rows_->search(queries.rows, queries.data, k, hits.scores.data(),
                    hits.rows.data());
      return hits;
    }

   private:
    const std::shared_ptr<CpuDeviceProbe> probe_;
    const std::unique_ptr<faiss::Index> rows_;
  };

  const std::shared_ptr<CpuDeviceProbe> probe_;
};

}  // namespace quern
