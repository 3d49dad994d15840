#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/matrix.h"
#include "engine/base/request_context.h"
#include "engine/index/device.h"
#include "engine/index/device_rows.h"

namespace quern {

// A device and the one thread that touches it: FAISS's indexes on a GPU are not
// safe for searches side by side. A device that fails is lost for good.
// Thread-safe.
class DeviceThread {
 public:
  using Open = std::function<absl::StatusOr<std::unique_ptr<Device>>()>;
  using Report = std::function<void(const std::string& sentence)>;

  // Opens the device and waits for it; one that does not open is lost.
  // `memory_bytes`: that it may take; 0: four fifths of what is free. `report`,
  // which may be null, is told when the device is lost.
  DeviceThread(std::string name, Open open, int64_t memory_bytes,
               Report report);
  // Runs what is queued, then joins. Nothing that Load() gave may be left.
  ~DeviceThread();

  const std::string& name() const { return name_; }
  // kUnavailable: it is lost.
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Bytes that Load() may still take.
  int64_t room_bytes() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Searches, loads and unloads that have not begun.
  size_t waiting() const ABSL_LOCKS_EXCLUDED(mutex_);

  // kResourceExhausted: there is no room for such rows.
  absl::Status CheckRoom(const DeviceShape& shape) const
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Copies rows to the device and waits for it. Errors: kResourceExhausted,
  // kUnavailable.
  absl::StatusOr<std::shared_ptr<DeviceIndex>> Load(const DeviceRows& rows)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Gives `index`, of which there must be no other owner, and its room back.
  void Unload(std::shared_ptr<DeviceIndex> index, const DeviceShape& shape)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits for its turn, then searches; those that wait for the same index and
  // as many lists run as one. Errors: kResourceExhausted, kUnavailable, and
  // what context.Check() gives, which does not wait for the device.
  absl::StatusOr<DeviceHits> Search(const RequestContext& context,
                                    const std::shared_ptr<DeviceIndex>& index,
                                    Matrix queries, int64_t k, int64_t lists)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Task;
  using Tasks = std::vector<std::shared_ptr<Task>>;

  absl::StatusOr<int64_t> OpenDevice(const Open& open);
  void Run(const Open& open) ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !tasks_.empty();
  }
  absl::Status CheckRoomLocked(int64_t bytes) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // The first task and, of searches, those that go with it.
  Tasks TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SearchTogether(const Tasks& tasks) ABSL_LOCKS_EXCLUDED(mutex_);
  // With the device's name; an error that loses the device does so.
  absl::Status Judge(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string name_;
  const int64_t memory_bytes_;
  const Report report_;

  std::unique_ptr<Device> device_;  // The thread's.

  mutable absl::Mutex mutex_;
  std::deque<std::shared_ptr<Task>> tasks_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  int64_t room_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool opened_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // Last: it uses what is above.
};

}  // namespace quern
