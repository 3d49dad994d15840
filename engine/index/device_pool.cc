#include "engine/index/device_pool.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/index/device_rows.h"

namespace quern {

DeviceSegment::DeviceSegment(std::shared_ptr<DeviceThread> thread,
                             std::shared_ptr<DeviceIndex> index,
                             const DeviceRows& rows)
    : thread_(std::move(thread)),
      index_(std::move(index)),
      shape_(rows.shape),
      norm_(rows.norm),
      score_error_(rows.norm *
                   DeviceScoreError(shape_.storage, shape_.dimension)),
      worst_scale_(rows.worst_scale) {}

DeviceSegment::~DeviceSegment() { thread_->Unload(std::move(index_), shape_); }

absl::StatusOr<DeviceHits> DeviceSegment::Search(const RequestContext& context,
                                                 MatrixView queries, int64_t k,
                                                 int64_t lists) const {
  Matrix unit(queries.rows, queries.columns);
  std::vector<float> norms;
  norms.reserve(queries.rows);
  for (int64_t i = 0; i < queries.rows; ++i) {
    double squares = 0;
    for (const float value : queries.row(i)) {
      squares += static_cast<double>(value) * value;
    }
    norms.push_back(static_cast<float>(std::sqrt(squares)));
    const float divisor = norms.back() > 0 ? norms.back() : 1;
    std::transform(queries.row(i).begin(), queries.row(i).end(),
                   unit.row(i).begin(),
                   [divisor](float value) { return value / divisor; });
  }
  QUERN_ASSIGN_OR_RETURN(
      DeviceHits hits,
      thread_->Search(context, index_, std::move(unit), k, lists));
  for (size_t i = 0; i < hits.scores.size(); ++i) {
    hits.scores[i] *= norm_ * norms[i / static_cast<size_t>(k)];
  }
  return hits;
}

DevicePool::DevicePool(absl::Span<const std::string> names,
                       const OpenDevice& open, const DevicePoolOptions& options)
    : options_(options) {
  threads_.reserve(names.size());
  for (const std::string& name : names) {
    threads_.push_back(std::make_shared<DeviceThread>(
        name, [&open, &name] { return open(name); }, options_.memory_bytes,
        options_.report));
  }
}

bool DevicePool::IsFor(const Segment& segment) const {
  return segment.rows() >= options_.min_rows;
}

absl::StatusOr<std::shared_ptr<const DeviceSegment>> DevicePool::Place(
    const Segment& segment) const {
  std::vector<std::shared_ptr<DeviceThread>> by_room = threads_;
  std::stable_sort(by_room.begin(), by_room.end(),
                   [](const auto& a, const auto& b) {
                     return a->room_bytes() > b->room_bytes();
                   });
  absl::Status status = absl::UnavailableError("there is no device");
  DeviceRows rows;
  for (const auto& thread : by_room) {
    status = thread->status();
    if (!status.ok()) continue;
    // Staging takes the segment's size in memory: only for who has room.
    const DeviceShape shape = ShapeOf(segment, options_.storage);
    status = thread->CheckRoom(shape);
    if (!status.ok()) return status;
    if (rows.index == nullptr) {
      QUERN_ASSIGN_OR_RETURN(rows, StageRows(segment, options_.storage));
    }
    absl::StatusOr<std::shared_ptr<DeviceIndex>> index = thread->Load(rows);
    status = index.status();
    if (!status.ok()) continue;
    return std::make_shared<const DeviceSegment>(thread, *std::move(index),
                                                 rows);
  }
  return status;
}

absl::Status DevicePool::status() const {
  for (const auto& thread : threads_) {
    QUERN_RETURN_IF_ERROR(thread->status());
  }
  return absl::OkStatus();
}

}  // namespace quern
