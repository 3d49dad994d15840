#include "engine/index/device_thread.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include <pthread.h>

#include "engine/base/error.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

constexpr absl::string_view kLibrary = "the device's thread";
// Queries of one search of a device: its scratch memory is for so many.
constexpr int64_t kMaxQueries = 256;
// Between two looks at a waiting caller's deadline.
constexpr absl::Duration kPoll = absl::Milliseconds(5);

}  // namespace

// Something to run, or a search.
struct DeviceThread::Task {
  std::function<void()> run;
  std::shared_ptr<DeviceIndex> index;
  Matrix queries;
  int64_t k = 0;
  int64_t lists = 0;
  // With the thread's mutex held:
  bool abandoned = false;  // Nobody waits for it.
  bool done = false;
  absl::StatusOr<DeviceHits> hits = DeviceHits{};
};

DeviceThread::DeviceThread(std::string name, Open open, int64_t memory_bytes,
                           Report report)
    : name_(std::move(name)),
      memory_bytes_(memory_bytes),
      report_(std::move(report)),
      thread_([this, open = std::move(open)] { Run(open); }) {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&opened_));
}

DeviceThread::~DeviceThread() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

absl::Status DeviceThread::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

int64_t DeviceThread::room_bytes() const {
  absl::MutexLock lock(&mutex_);
  return status_.ok() ? room_bytes_ : 0;
}

size_t DeviceThread::waiting() const {
  absl::MutexLock lock(&mutex_);
  return tasks_.size();
}

absl::Status DeviceThread::CheckRoom(const DeviceShape& shape) const {
  absl::MutexLock lock(&mutex_);
  return CheckRoomLocked(DeviceBytes(shape));
}

absl::Status DeviceThread::CheckRoomLocked(int64_t bytes) const {
  if (bytes <= room_bytes_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(name_, ": a segment needs ", bytes, " bytes, ", room_bytes_,
                   " are left: raise index.gpu_memory_bytes"));
}

absl::Status DeviceThread::Judge(const absl::Status& status) {
  if (status.ok()) return status;
  const std::string message = absl::StrCat(name_, ": ", status.message());
  if (absl::IsResourceExhausted(status)) {
    return absl::ResourceExhaustedError(message);
  }
  {
    absl::MutexLock lock(&mutex_);
    if (!status_.ok()) return status_;
    status_ = absl::UnavailableError(message);
  }
  if (report_ != nullptr) report_(message);
  return absl::UnavailableError(message);
}

absl::StatusOr<int64_t> DeviceThread::OpenDevice(const Open& open) {
  QUERN_ASSIGN_OR_RETURN(device_, open());
  QUERN_ASSIGN_OR_RETURN(const int64_t free, device_->FreeBytes());
  const int64_t allowed =
      memory_bytes_ == 0 ? free / 5 * 4 : std::min(memory_bytes_, free);
  const int64_t room = allowed - device_->scratch_bytes();
  if (room > 0) return room;
  return absl::FailedPreconditionError(absl::StrCat(
      "may take ", allowed, " bytes, of which ", free,
      " are free, but needs more than ", device_->scratch_bytes(),
      " for searches alone: raise index.gpu_memory_bytes, or free memory"));
}

void DeviceThread::Run(const Open& open) {
  pthread_setname_np(pthread_self(), name_.substr(0, 15).c_str());
  const absl::StatusOr<int64_t> room =
      Guard(kLibrary, [&] { return OpenDevice(open); });
  if (!room.ok()) {
    const absl::Status lost =
        Judge(absl::UnavailableError(room.status().message()));
  }
  {
    absl::MutexLock lock(&mutex_);
    room_bytes_ = room.value_or(0);
    opened_ = true;
  }
  while (true) {
    Tasks tasks;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &DeviceThread::HasWork));
      if (tasks_.empty()) break;
      tasks = TakeNext();
    }
    if (tasks.empty()) continue;
    if (tasks[0]->run != nullptr) {
      tasks[0]->run();
    } else {
      SearchTogether(tasks);
    }
  }
  device_ = nullptr;
}

DeviceThread::Tasks DeviceThread::TakeNext() {
  const std::shared_ptr<Task> first = std::move(tasks_.front());
  tasks_.pop_front();
  if (first->run != nullptr) return {first};
  if (first->abandoned) return {};
  Tasks together = {first};
  int64_t queries = first->queries.rows();
  for (auto it = tasks_.begin(); it != tasks_.end();) {
    const Task& other = **it;
    if (other.abandoned || other.index != first->index ||
        other.lists != first->lists ||
        queries + other.queries.rows() > kMaxQueries) {
      ++it;
      continue;
    }
    queries += other.queries.rows();
    together.push_back(std::move(*it));
    it = tasks_.erase(it);
  }
  return together;
}

void DeviceThread::SearchTogether(const Tasks& tasks) {
  int64_t k = 0;
  const absl::StatusOr<DeviceHits> found =
      Guard(kLibrary, [&]() -> absl::StatusOr<DeviceHits> {
        QUERN_RETURN_IF_ERROR(status());
        std::vector<float> values;
        for (const auto& task : tasks) {
          const Matrix& queries = task->queries;
          k = std::max(k, task->k);
          values.insert(values.end(), queries.data(),
                        queries.data() + queries.rows() * queries.columns());
        }
        const int64_t columns = tasks[0]->queries.columns();
        const auto rows = static_cast<int64_t>(values.size()) / columns;
        QUERN_ASSIGN_OR_RETURN(
            DeviceHits hits,
            tasks[0]->index->Search({values.data(), rows, columns}, k,
                                    tasks[0]->lists));
        if (static_cast<int64_t>(hits.rows.size()) != rows * k ||
            hits.scores.size() != hits.rows.size()) {
          return absl::InternalError("a search gave a wrong number of rows");
        }
        return hits;
      });
  const absl::Status status = Judge(found.status());
  int64_t query = 0;
  for (const auto& task : tasks) {
    DeviceHits hits;
    for (int64_t i = 0; status.ok() && i < task->queries.rows(); ++i, ++query) {
      // The best of more are the best.
      const auto scores = found->scores.begin() + query * k;
      hits.scores.insert(hits.scores.end(), scores, scores + task->k);
      const auto rows = found->rows.begin() + query * k;
      hits.rows.insert(hits.rows.end(), rows, rows + task->k);
    }
    absl::MutexLock lock(&mutex_);
    if (status.ok()) {
      task->hits = std::move(hits);
    } else {
      task->hits = status;
    }
    // Whoever waits may outlive the thread: the index may not.
    task->index = nullptr;
    task->done = true;
  }
}

absl::StatusOr<std::shared_ptr<DeviceIndex>> DeviceThread::Load(
    const DeviceRows& rows) {
  const int64_t bytes = DeviceBytes(rows.shape);
  auto task = std::make_shared<Task>();
  absl::StatusOr<std::shared_ptr<DeviceIndex>> loaded = nullptr;
  task->run = [&, &done = task->done] {
    absl::Status status = this->status();
    if (status.ok()) {
      absl::StatusOr<std::unique_ptr<DeviceIndex>> index =
          device_->Load(*rows.index, rows.shape.storage);
      status = Judge(index.status());
      if (status.ok()) loaded = std::shared_ptr<DeviceIndex>(*std::move(index));
    }
    if (!status.ok()) loaded = status;
    absl::MutexLock lock(&mutex_);
    done = true;
  };
  absl::MutexLock lock(&mutex_);
  QUERN_RETURN_IF_ERROR(status_);
  QUERN_RETURN_IF_ERROR(CheckRoomLocked(bytes));
  room_bytes_ -= bytes;
  tasks_.push_back(task);
  mutex_.Await(absl::Condition(&task->done));
  if (!loaded.ok()) room_bytes_ += bytes;
  return loaded;
}

void DeviceThread::Unload(std::shared_ptr<DeviceIndex> index,
                          const DeviceShape& shape) {
  auto task = std::make_shared<Task>();
  task->run = [index = std::move(index)]() mutable { index = nullptr; };
  absl::MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
  // What is loaded next comes after it.
  room_bytes_ += DeviceBytes(shape);
}

absl::StatusOr<DeviceHits> DeviceThread::Search(
    const RequestContext& context, const std::shared_ptr<DeviceIndex>& index,
    Matrix queries, int64_t k, int64_t lists) {
  auto task = std::make_shared<Task>();
  task->index = index;
  task->queries = std::move(queries);
  task->k = k;
  task->lists = lists;
  absl::MutexLock lock(&mutex_);
  QUERN_RETURN_IF_ERROR(status_);
  tasks_.push_back(task);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&task->done), kPoll)) {
    const absl::Status status = context.Check("the end of a device's search");
    if (status.ok()) continue;
    task->abandoned = true;
    return status;
  }
  return std::move(task->hits);
}

}  // namespace quern
