#include "engine/index/query_sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "engine/index/plain_bytes.h"

namespace quern {
namespace {

constexpr char kMagic[8] = {'Q', 'U', 'E', 'R', 'N', 'Q', 'R', 'Y'};
constexpr uint32_t kVersion = 1;

struct Head {
  char magic[8] = {};
  uint32_t version = 0;
  uint32_t dimension = 0;
};

absl::string_view BytesOfQuery(absl::Span<const float> query) {
  return {reinterpret_cast<const char*>(query.data()),
          query.size() * sizeof(float)};
}

}  // namespace

bool QuerySample::Ring::Add(absl::Span<const float> query) {
  if (known_.contains(BytesOfQuery(query))) return false;
  std::vector<float> kept;
  if (queries_.size() == kKept) {
    known_.erase(BytesOfQuery(queries_.front()));
    kept = std::move(queries_.front());
    queries_.pop_front();
  }
  kept.assign(query.begin(), query.end());
  // What a vector holds stays where it is when the vector moves.
  known_.insert(BytesOfQuery(queries_.emplace_back(std::move(kept))));
  return true;
}

void QuerySample::Add(QuerySource source, const Matrix& queries) {
  if (!mutex_.TryLock()) return;
  for (int64_t i = 0; i < queries.rows(); ++i) {
    if (rings_[static_cast<size_t>(source)].Add(queries.row(i))) ++version_;
  }
  mutex_.Unlock();
}

std::vector<Matrix> QuerySample::Queries() const {
  std::vector<Matrix> sources;
  absl::MutexLock lock(&mutex_);
  for (const Ring& ring : rings_) {
    if (ring.queries().empty()) continue;
    std::vector<float> values;
    for (const std::vector<float>& query : ring.queries()) {
      values.insert(values.end(), query.begin(), query.end());
    }
    sources.emplace_back(static_cast<int64_t>(ring.queries().size()),
                         dimension_, std::move(values));
  }
  return sources;
}

size_t QuerySample::largest() const {
  absl::MutexLock lock(&mutex_);
  size_t largest = 0;
  for (const Ring& ring : rings_) {
    largest = std::max(largest, ring.queries().size());
  }
  return largest;
}

uint64_t QuerySample::version() const {
  absl::MutexLock lock(&mutex_);
  return version_;
}

std::string QuerySample::Bytes() const {
  Head head{.version = kVersion,
            .dimension = static_cast<uint32_t>(dimension_)};
  std::memcpy(head.magic, kMagic, sizeof(kMagic));
  std::string bytes;
  AppendValue(head, &bytes);
  absl::MutexLock lock(&mutex_);
  for (const Ring& ring : rings_) {
    AppendValue(static_cast<uint32_t>(ring.queries().size()), &bytes);
    for (const std::vector<float>& query : ring.queries()) {
      AppendValues(query.data(), query.size(), &bytes);
    }
  }
  return bytes;
}

absl::Status QuerySample::Parse(absl::Span<const uint8_t> bytes) {
  const auto damaged = [] {
    return absl::DataLossError("not a sample of queries of this index");
  };
  PlainReader reader(bytes);
  Head head;
  if (!reader.Read(&head) ||
      std::memcmp(head.magic, kMagic, sizeof(kMagic)) != 0 ||
      head.version != kVersion || head.dimension != dimension_) {
    return damaged();
  }
  std::array<Ring, kQuerySources> rings;
  std::vector<float> query;
  for (Ring& ring : rings) {
    uint32_t count = 0;
    if (!reader.Read(&count) || count > kKept) return damaged();
    for (; count > 0; --count) {
      if (!reader.Read(head.dimension, &query) ||
          !std::all_of(query.begin(), query.end(),
                       [](float value) { return std::isfinite(value); })) {
        return damaged();
      }
      ring.Add(query);
    }
  }
  if (!reader.at_end()) return damaged();
  absl::MutexLock lock(&mutex_);
  rings_ = std::move(rings);
  return absl::OkStatus();
}

}  // namespace quern
