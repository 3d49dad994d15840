#include "engine/index/sharded_index.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include <sched.h>

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/guard.h"
#include "engine/base/status_macros.h"
#include "engine/base/work_crew.h"
#include "engine/index/plain_bytes.h"
#include "engine/index/search_run.h"

namespace quern {
namespace {

constexpr absl::string_view kLibrary = "the index";
constexpr char kCpu[] = "cpu";
constexpr int32_t kMaxShards = 64;
constexpr int64_t kMaxDimension = 4096;
// A segment that is at most so many times what is merged joins in.
constexpr int64_t kMergeFactor = 4;
// A segment with a larger share of dead rows is made anew.
constexpr double kMaxDeadShare = 0.25;
// Of the row numbers: an index that has given out more is made anew when it is
// opened next. Most are then of rows long gone, since so many that live have no
// room in memory.
constexpr double kUsedRowNumbers = 0.75;
// Of `seal_rows`: what may always wait to be sealed.
constexpr int64_t kSealsAhead = 4;
constexpr size_t kLoadThreads = 8;
constexpr absl::Duration kLockPoll = absl::Milliseconds(5);

absl::Status CheckColumns(MatrixView matrix, int64_t dimension,
                          absl::string_view name) {
  if (matrix.rows == 0 || matrix.columns == dimension) return absl::OkStatus();
  return InvalidField(name,
                      absl::StrCat("has rows of ", matrix.columns,
                                   " values; the dimension is ", dimension));
}

absl::Status CheckRange(absl::string_view name, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return InvalidField(name,
                      absl::StrCat("is ", value, "; it must be 1 to ", max));
}

absl::Status CheckRecall(absl::string_view name, float recall) {
  if (recall > 0 && recall <= 1) return absl::OkStatus();
  return InvalidField(
      name, absl::StrCat("is ", recall, "; it must be above 0 and at most 1"));
}

// The row numbers of a segment's live rows.
void AddLiveRows(const IndexPart& part, RowSet* rows) {
  const uint32_t* const numbers = part.segment->row_numbers();
  rows->AddMany({numbers, static_cast<size_t>(part.rows)});
  if (part.dead == nullptr) return;
  for (size_t word = 0; word < part.dead->size(); ++word) {
    for (uint64_t bits = (*part.dead)[word]; bits != 0; bits &= bits - 1) {
      rows->Remove(
          numbers[word * 64 + static_cast<size_t>(__builtin_ctzll(bits))]);
    }
  }
}

bool IsActiveDelta(const IndexPart& part,
                   const std::shared_ptr<Delta>& active) {
  return part.delta != nullptr && part.delta == active;
}

}  // namespace

// --- writes ---

// A change of the snapshot, made beside it and published at once. Used with
// `write_mutex_` held.
class ShardedIndex::Edit {
 public:
  explicit Edit(const Snapshot& from)
      : next_(std::make_shared<Snapshot>(from)), writable_(from.parts.size()) {}

  Snapshot& next() { return *next_; }

  void AddPart(uint32_t shard, IndexPart part, IndexFile file) {
    next_->parts.push_back(std::move(part));
    next_->shard_of.push_back(shard);
    next_->file_of.push_back(file);
    writable_.emplace_back();
  }

  void Kill(size_t part_number, int64_t row) {
    IndexPart& part = next_->parts[part_number];
    std::shared_ptr<std::vector<uint64_t>>& bits = writable_[part_number];
    const int64_t room = part.delta != nullptr ? Delta::kMaxRows : part.rows;
    if (bits == nullptr) {
      bits = part.dead == nullptr
                 ? std::make_shared<std::vector<uint64_t>>((room + 63) / 64)
                 : std::make_shared<std::vector<uint64_t>>(*part.dead);
      part.dead = bits;
    }
    (*bits)[row / 64] |= uint64_t{1} << (row % 64);
    ++part.dead_rows;
    --next_->live_rows;
  }

  // The live row of an id.
  std::optional<std::pair<size_t, uint32_t>> Find(uint32_t shard,
                                                  absl::string_view id) const {
    for (size_t p = next_->parts.size(); p-- > 0;) {
      if (next_->shard_of[p] != shard) continue;
      const IndexPart& part = next_->parts[p];
      const std::optional<uint32_t> row = part.segment != nullptr
                                              ? part.segment->Find(id)
                                              : part.delta->Find(id, part.rows);
      if (row.has_value() && !part.IsDead(*row)) return {{p, *row}};
    }
    return std::nullopt;
  }

  std::shared_ptr<const Snapshot> Take() { return std::move(next_); }

 private:
  std::shared_ptr<Snapshot> next_;
  // Bits that this edit made, and may change.
  std::vector<std::shared_ptr<std::vector<uint64_t>>> writable_;
};

absl::StatusOr<std::unique_ptr<ShardedIndex>> ShardedIndex::Create(
    ShardedIndexOptions options) {
  QUERN_RETURN_IF_ERROR(
      CheckRange("dimension", options.dimension, kMaxDimension));
  QUERN_RETURN_IF_ERROR(CheckRange("shards", options.shards, kMaxShards));
  QUERN_RETURN_IF_ERROR(CheckRecall("target_recall", options.target_recall));
  QUERN_RETURN_IF_ERROR(
      CheckRange("seal_rows", options.seal_rows, int64_t{1} << 31));
  std::unique_ptr<ShardedIndex> index(new ShardedIndex(std::move(options)));
  if (!index->options_.directory.empty()) QUERN_RETURN_IF_ERROR(index->Load());
  index->PlaceSegments();
  return index;
}

ShardedIndex::ShardedIndex(ShardedIndexOptions options)
    : options_(std::move(options)),
      coder_(std::make_shared<const BinaryCoder>(options_.dimension)),
      search_options_{.metric = options_.metric,
                      .target_recall = options_.target_recall,
                      .reader = &options_.reader,
                      .cache = options_.cache.get(),
                      .coder = coder_.get(),
                      .crew = options_.crew.get(),
                      .min_crew_bytes = options_.min_crew_bytes},
      fields_(options_.fields),
      queries_(options_.dimension) {
  auto empty = std::make_shared<Snapshot>();
  empty->shards.resize(options_.shards);
  {
    absl::MutexLock lock(&work_mutex_);
    generation_ = absl::Uniform<uint64_t>(absl::BitGen());
  }
  {
    absl::MutexLock lock(&write_mutex_);
    active_.resize(options_.shards);
  }
  Publish(std::move(empty));
  absl::MutexLock lock(&tether_->mutex);
  tether_->index = this;
}

ShardedIndex::~ShardedIndex() {
  stopping_ = true;
  absl::MutexLock lock(&tether_->mutex);  // A task under way holds it.
  tether_->index = nullptr;
}

uint32_t ShardedIndex::ShardOf(absl::string_view id) const {
  // The high bits: the low ones choose slots of the id tables.
  return static_cast<uint32_t>((IdHash(id) >> 40) %
                               static_cast<uint64_t>(options_.shards));
}

std::shared_ptr<const ShardedIndex::Snapshot> ShardedIndex::snapshot() const {
  absl::MutexLock lock(&snapshot_mutex_);
  return snapshot_;
}

void ShardedIndex::Publish(std::shared_ptr<const Snapshot> next) {
  // The old one goes after the lock: it may be the last owner of a segment.
  absl::MutexLock lock(&snapshot_mutex_);
  snapshot_.swap(next);
}

int64_t ShardedIndex::size() const { return snapshot()->live_rows; }

absl::Status ShardedIndex::Upsert(absl::Span<const std::string> ids,
                                  MatrixView vectors,
                                  absl::Span<const FieldValues> fields) {
  if (vectors.rows != static_cast<int64_t>(ids.size())) {
    return InvalidField(
        "vectors",
        absl::StrCat("has ", vectors.rows, " rows for ", ids.size(), " ids"));
  }
  if (!fields.empty() && fields.size() != ids.size()) {
    return InvalidField("fields", absl::StrCat("has ", fields.size(), " for ",
                                               ids.size(), " ids"));
  }
  QUERN_RETURN_IF_ERROR(CheckColumns(vectors, dimension(), "vectors"));
  if (ids.empty()) return absl::OkStatus();
  absl::Status status = Guard(kLibrary, [&]() -> absl::Status {
    QUERN_ASSIGN_OR_RETURN(const Matrix prepared,
                           PrepareVectors(vectors, options_.metric, "vectors"));
    absl::MutexLock lock(&write_mutex_);
    const std::shared_ptr<const Snapshot> before = snapshot();
    if (ids.size() > options_.max_row_numbers - next_row_) {
      return absl::ResourceExhaustedError(
          "the index has given out all of its row numbers: restart the server, "
          "which then makes it anew from the items");
    }
    Edit edit(*before);
    std::vector<uint32_t> removed;
    const uint32_t first_row = next_row_;
    // What throws may leave rows in deltas: they then get no more.
    std::vector<std::shared_ptr<Delta>> deltas(active_.size());
    deltas.swap(active_);
    for (size_t i = 0; i < ids.size(); ++i) {
      const uint32_t shard = ShardOf(ids[i]);
      if (const auto found = edit.Find(shard, ids[i])) {
        removed.push_back(
            edit.next().parts[found->first].row_number(found->second));
        edit.Kill(found->first, found->second);
      }
      std::shared_ptr<Delta>& active = deltas[shard];
      if (active == nullptr || active->rows() == Delta::kMaxRows) {
        active =
            std::make_shared<Delta>(dimension(), coder_, applied_sequence_);
        edit.AddPart(shard, {.delta = active}, {});
      }
      active->Append(ids[i], next_row_++,
                     prepared.row(static_cast<int64_t>(i)));
      for (size_t p = edit.next().parts.size(); p-- > 0;) {
        IndexPart& part = edit.next().parts[p];
        if (!IsActiveDelta(part, active)) continue;
        part.rows = active->rows();
        break;
      }
      ++edit.next().live_rows;
    }
    absl::MutexLock fields_lock(&fields_mutex_);
    for (size_t i = 0; i < fields.size(); ++i) {
      fields_.Add(first_row + static_cast<uint32_t>(i), fields[i]);
    }
    for (const uint32_t row : removed) fields_.Remove(row);
    Publish(edit.Take());
    active_.swap(deltas);
    return absl::OkStatus();
  });
  if (status.ok()) ScheduleWork();
  return status;
}

absl::Status ShardedIndex::Remove(absl::Span<const std::string> ids) {
  absl::MutexLock lock(&write_mutex_);
  Edit edit(*snapshot());
  std::vector<uint32_t> removed;
  for (const std::string& id : ids) {
    const auto found = edit.Find(ShardOf(id), id);
    if (!found.has_value()) continue;
    removed.push_back(
        edit.next().parts[found->first].row_number(found->second));
    edit.Kill(found->first, found->second);
  }
  if (removed.empty()) return absl::OkStatus();
  {
    absl::MutexLock fields_lock(&fields_mutex_);
    for (const uint32_t row : removed) fields_.Remove(row);
    Publish(edit.Take());
  }
  ScheduleWork();
  return absl::OkStatus();
}

bool ShardedIndex::Contains(const std::string& id) const {
  absl::MutexLock lock(&write_mutex_);  // A delta's ids are the writer's.
  return Edit(*snapshot()).Find(ShardOf(id), id).has_value();
}

uint64_t ShardedIndex::applied_sequence() const {
  absl::MutexLock lock(&write_mutex_);
  return applied_sequence_;
}

void ShardedIndex::MarkApplied(uint64_t sequence) {
  absl::MutexLock lock(&write_mutex_);
  applied_sequence_ = std::max(applied_sequence_, sequence);
}

bool ShardedIndex::incomplete() const {
  const auto now = snapshot();
  return std::any_of(now->shards.begin(), now->shards.end(),
                     [](const ShardState& shard) { return !shard.complete; });
}

void ShardedIndex::MarkIncomplete(const std::string& why) {
  absl::MutexLock lock(&write_mutex_);
  Edit edit(*snapshot());
  for (ShardState& shard : edit.next().shards) shard = {false, why};
  Publish(edit.Take());
}

void ShardedIndex::MarkComplete() {
  {
    absl::MutexLock lock(&write_mutex_);
    Edit edit(*snapshot());
    for (ShardState& shard : edit.next().shards) shard = {};
    Publish(edit.Take());
    changed_since_save_ = true;
  }
  // Until it is saved the next start makes the index anew.
  lacks_save_ = true;
  ScheduleWork();
}

// --- search ---

absl::Status ShardedIndex::CheckSearch(
    MatrixView queries, const VectorSearchOptions& options) const {
  if (options.k < 1) {
    return InvalidField(
        "k", absl::StrCat("is ", options.k, "; it must be at least 1"));
  }
  if (options.recall.has_value()) {
    QUERN_RETURN_IF_ERROR(CheckRecall("recall", *options.recall));
  }
  return CheckColumns(queries, dimension(), "queries");
}

absl::StatusOr<std::vector<std::vector<ScoredId>>> ShardedIndex::Search(
    const RequestContext& context, MatrixView queries,
    const VectorSearchOptions& options, SearchStats* stats) const {
  QUERN_RETURN_IF_ERROR(CheckSearch(queries, options));
  QUERN_RETURN_IF_ERROR(context.Check("search"));
  using Results = std::vector<std::vector<ScoredId>>;
  return Guard(kLibrary, [&]() -> absl::StatusOr<Results> {
    QUERN_ASSIGN_OR_RETURN(const Matrix prepared,
                           PrepareVectors(queries, options_.metric, "queries"));
    if (options.source.has_value()) queries_.Add(*options.source, prepared);
    std::shared_ptr<const Snapshot> now;
    std::optional<SearchRun> run;
    if (options.filter == nullptr && options.modalities.empty()) {
      now = snapshot();
      run.emplace(search_options_, context, now->parts, prepared, options);
    } else {
      // Rows must not come and go between the two.
      absl::ReaderMutexLock lock(&fields_mutex_);
      now = snapshot();
      run.emplace(search_options_, context, now->parts, prepared, options);
      run->Restrict(fields_.Match(options.filter.get(), options.modalities));
    }
    QUERN_ASSIGN_OR_RETURN(Results results, run->Run());
    Describe(*now, run->device_trouble(), stats);
    if (options.explain) stats->plan = run->Explain();
    return results;
  });
}

void ShardedIndex::Describe(const Snapshot& now, std::string device_trouble,
                            SearchStats* stats) const {
  *stats = {};
  stats->shards_asked = options_.shards;
  for (size_t i = 0; i < now.shards.size(); ++i) {
    if (now.shards[i].complete) {
      ++stats->shards_answered;
    } else {
      stats->degraded_reasons.push_back(
          absl::StrCat("shard ", i, ": ", now.shards[i].message));
    }
  }
  if (device_trouble.empty()) device_trouble = DeviceTrouble(now);
  if (device_trouble.empty()) return;
  stats->degraded_reasons.push_back(
      absl::StrCat(device_trouble, ": the processor searched instead"));
}

std::string ShardedIndex::DeviceTrouble(const Snapshot& now) const {
  const DevicePool* const devices = options_.devices.get();
  if (devices == nullptr) return "";
  const absl::Status status = devices->status();
  const bool missed =
      !status.ok() &&
      std::any_of(
          now.parts.begin(), now.parts.end(), [devices](const IndexPart& part) {
            return part.segment != nullptr && devices->IsFor(*part.segment) &&
                   (part.device == nullptr || !part.device->status().ok());
          });
  return missed ? std::string(status.message()) : "";
}

// --- status ---

int64_t ShardedIndex::memory_bytes() const {
  int64_t bytes = 0;
  const std::shared_ptr<const Snapshot> now = snapshot();
  for (const IndexPart& part : now->parts) {
    bytes += part.segment != nullptr ? part.segment->memory_bytes()
                                     : part.delta->memory_bytes(part.rows);
    if (part.dead != nullptr) {
      bytes += static_cast<int64_t>(part.dead->size()) * 8;
    }
  }
  return bytes;
}

int64_t ShardedIndex::disk_bytes() const {
  int64_t bytes = 0;
  const std::shared_ptr<const Snapshot> now = snapshot();
  for (const IndexFile& file : now->file_of) {
    bytes += static_cast<int64_t>(file.size);
  }
  return bytes;
}

std::vector<ShardInfo> ShardedIndex::shards() const {
  const std::shared_ptr<const Snapshot> now = snapshot();
  std::vector<ShardInfo> shards(now->shards.size());
  std::vector<double> recalls(shards.size());
  std::vector<int64_t> largest(shards.size());
  std::vector<std::set<std::string>> devices(shards.size());
  for (size_t p = 0; p < now->parts.size(); ++p) {
    const IndexPart& part = now->parts[p];
    ShardInfo& shard = shards[now->shard_of[p]];
    shard.item_count += part.live_rows();
    const float recall = part.segment == nullptr
                             ? 1
                             : part.segment->calibration().measured_recall;
    recalls[now->shard_of[p]] += recall * static_cast<double>(part.live_rows());
    if (part.segment != nullptr && options_.devices != nullptr &&
        options_.devices->IsFor(*part.segment)) {
      const bool there = part.device != nullptr && part.device->status().ok();
      devices[now->shard_of[p]].insert(there ? part.device->device() : kCpu);
    }
    if (part.segment == nullptr ||
        part.live_rows() <= largest[now->shard_of[p]]) {
      continue;
    }
    largest[now->shard_of[p]] = part.live_rows();
    shard.kind = part.segment->kind();
    const OperatingPoint* const point = part.segment->PointFor(std::nullopt);
    shard.effort = point == nullptr ? 0 : point->effort;
    shard.depth = point == nullptr ? 0 : point->depth;
    shard.stored_queries = part.segment->calibration().stored_queries;
    shard.real_queries = part.segment->calibration().real_queries;
    shard.message =
        part.segment->calibration().fell_to_exact != 0
            ? absl::StrFormat(
                  "no graph or lists reached the target recall of %.3f on this "
                  "data: every vector is compared",
                  part.segment->calibration().target_recall)
            : "";
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].measured_recall =
        shards[i].item_count == 0
            ? 1
            : static_cast<float>(recalls[i] /
                                 static_cast<double>(shards[i].item_count));
    if (!devices[i].empty()) shards[i].device = absl::StrJoin(devices[i], ", ");
    if (devices[i].count(kCpu) != 0) {
      const absl::Status status = options_.devices->status();
      absl::StrAppend(&shards[i].message, shards[i].message.empty() ? "" : "; ",
                      status.ok() ? "no device has room" : status.message(),
                      ": the processor searches segments");
    }
    shards[i].available = now->shards[i].complete;
    if (!now->shards[i].message.empty()) {
      shards[i].message = now->shards[i].message;
    }
  }
  return shards;
}

// --- the background ---

absl::Status ShardedIndex::CheckStopping() const {
  return stopping_ ? absl::CancelledError("the index is being closed")
                   : absl::OkStatus();
}

int64_t ShardedIndex::UnsealedRows(const Snapshot& now) {
  int64_t rows = 0;
  for (const IndexPart& part : now.parts) {
    if (part.segment == nullptr) rows += part.rows;
  }
  return rows;
}

bool ShardedIndex::is_full() const {
  if (!scheduled_ && optimizing_ == 0) return false;
  const int64_t rows = UnsealedRows(*snapshot());
  const auto row_bytes =
      static_cast<int64_t>(sizeof(float)) * options_.dimension;
  return rows > kSealsAhead * options_.seal_rows &&
         rows > options_.unsealed_bytes / row_bytes;
}

bool ShardedIndex::NeedsWork(const Snapshot& now) const {
  for (const IndexPart& part : now.parts) {
    if (part.segment != nullptr &&
        static_cast<double>(part.dead_rows) >
            kMaxDeadShare * static_cast<double>(part.rows)) {
      return true;
    }
  }
  return lacks_save_ || UnsealedRows(now) >= options_.seal_rows;
}

void ShardedIndex::ScheduleWork() {
  if (options_.background == nullptr || options_.read_only ||
      !NeedsWork(*snapshot()) || scheduled_.exchange(true)) {
    return;
  }
  const absl::Status status = options_.background->Submit(
      [tether = tether_] {
        absl::MutexLock lock(&tether->mutex);
        ShardedIndex* const index = tether->index;
        if (index == nullptr) return;
        // What fails stays as it was, and is tried again after more writes.
        const absl::Status done = index->MaintainInBackground();
        index->scheduled_ = false;
        if (done.ok()) index->ScheduleWork();
      },
      Lane::kBulk);
  if (!status.ok()) scheduled_ = false;  // The next write tries again.
}

absl::Status ShardedIndex::MaintainInBackground() {
  // An Optimize() does all of this, with more threads, and other indexes need
  // this one.
  const auto check = [this] {
    QUERN_RETURN_IF_ERROR(CheckStopping());
    return optimizing_ == 0 ? absl::OkStatus()
                            : absl::UnavailableError("it is being optimized");
  };
  while (!work_mutex_.TryLock()) {
    QUERN_RETURN_IF_ERROR(check());
    absl::SleepFor(kLockPoll);
  }
  absl::Status status = Maintain(/*everything=*/false, check, [](float) {});
  work_mutex_.Unlock();
  return status;
}

absl::Status ShardedIndex::Optimize(
    const RequestContext& context, const std::function<void(float)>& progress) {
  if (options_.read_only) {
    return absl::FailedPreconditionError(
        absl::StrCat("the index in ", options_.directory, " is only read"));
  }
  const auto check = [this, &context] {
    QUERN_RETURN_IF_ERROR(CheckStopping());
    return context.Check("optimize");
  };
  ++optimizing_;
  absl::Status status;
  // The background may be in the middle of a long step: whoever waits for it
  // must still be able to leave.
  while (!work_mutex_.TryLock()) {
    status = check();
    if (!status.ok()) break;
    absl::SleepFor(kLockPoll);
  }
  if (status.ok()) {
    status = Maintain(/*everything=*/true, check, progress);
    work_mutex_.Unlock();
  }
  --optimizing_;
  ScheduleWork();  // What was written meanwhile.
  return status;
}

absl::Status ShardedIndex::Maintain(
    bool everything, const StopCheck& stop,
    const std::function<void(float)>& progress) {
  // A low priority alone lets a search wait for as long as the scheduler's
  // slice, milliseconds.
  const auto check = [&stop] {
    sched_yield();
    return stop();
  };
  for (int32_t shard = 0; shard < options_.shards; ++shard) {
    QUERN_RETURN_IF_ERROR(check());
    std::shared_ptr<const Snapshot> now = Freeze(static_cast<uint32_t>(shard));
    const std::vector<size_t> chosen =
        ChooseMerge(*now, static_cast<uint32_t>(shard), everything);
    if (!chosen.empty()) {
      QUERN_RETURN_IF_ERROR(
          Merge(chosen, *now, static_cast<uint32_t>(shard),
                everything ? options_.optimize_threads : options_.build_threads,
                check));
    }
    now = nullptr;  // What was merged makes room on the devices.
    PlaceSegments();
    progress(static_cast<float>(shard + 1) /
             static_cast<float>(options_.shards));
  }
  // Before the save looks: what changes meanwhile is for the next one.
  if (options_.directory.empty() || !changed_since_save_.exchange(false)) {
    lacks_save_ = false;
    return absl::OkStatus();
  }
  const bool lacked_save = lacks_save_.exchange(false);
  absl::Status saved = Save();
  if (!saved.ok()) {
    changed_since_save_ = true;
    lacks_save_ = lacks_save_ || lacked_save;
  }
  return saved;
}

std::shared_ptr<const ShardedIndex::Snapshot> ShardedIndex::Freeze(
    uint32_t shard) {
  absl::MutexLock lock(&write_mutex_);
  active_[shard] = nullptr;
  return snapshot();
}

std::vector<size_t> ShardedIndex::ChooseMerge(const Snapshot& now,
                                              uint32_t shard,
                                              bool everything) const {
  std::vector<size_t> chosen;
  std::vector<size_t> segments;
  int64_t rows = 0;
  bool stale = false;
  for (size_t p = 0; p < now.parts.size(); ++p) {
    if (now.shard_of[p] != shard) continue;
    if (now.parts[p].segment == nullptr) {
      chosen.push_back(p);
      rows += now.parts[p].live_rows();
    } else {
      segments.push_back(p);
    }
  }
  std::sort(segments.begin(), segments.end(), [&](size_t a, size_t b) {
    return now.parts[a].live_rows() < now.parts[b].live_rows();
  });
  for (const size_t p : segments) {
    const IndexPart& part = now.parts[p];
    const bool many_dead = static_cast<double>(part.dead_rows) >
                           kMaxDeadShare * static_cast<double>(part.rows);
    const bool joins =
        !chosen.empty() && part.live_rows() <= kMergeFactor * rows;
    stale |=
        part.dead_rows > 0 ||
        part.segment->header().storage !=
            static_cast<uint32_t>(options_.storage) ||
        part.segment->calibration().target_recall != options_.target_recall ||
        LacksRealQueries(*part.segment);
    if (!everything && !many_dead && !joins) continue;
    chosen.push_back(p);
    rows += part.live_rows();
  }
  // One good segment is as good as it gets.
  if (everything && chosen.size() == 1 && segments.size() == 1 && !stale) {
    return {};
  }
  return chosen;
}

// Whether there are some by now for a graph or lists that were calibrated by
// stored vectors alone.
bool ShardedIndex::LacksRealQueries(const Segment& segment) const {
  return segment.kind() != IndexKind::kExact &&
         segment.calibration().real_queries == 0 &&
         queries_.largest() >= kMinRealQueries;
}

absl::Status ShardedIndex::Merge(const std::vector<size_t>& chosen,
                                 const Snapshot& now, uint32_t shard,
                                 int threads, const StopCheck& check) {
  std::vector<IndexPart> parts;
  int64_t live = 0;
  for (const size_t p : chosen) {
    parts.push_back(now.parts[p]);
    live += now.parts[p].live_rows();
  }
  std::shared_ptr<const Segment> segment;
  IndexFile file;
  if (live > 0) {
    const std::vector<Matrix> real_queries = queries_.Queries();
    const SegmentOptions options{.dimension = options_.dimension,
                                 .metric = options_.metric,
                                 .storage = options_.storage,
                                 .kind = options_.kind,
                                 .target_recall = options_.target_recall,
                                 .min_ann_rows = options_.min_ann_rows,
                                 .threads = threads,
                                 .generation = generation_,
                                 .file_id = next_file_++};
    absl::StatusOr<std::shared_ptr<const Segment>> built = Guard(
        kLibrary, [&]() -> absl::StatusOr<std::shared_ptr<const Segment>> {
          return BuildSegment(options, parts, real_queries, options_.reader,
                              check);
        });
    QUERN_RETURN_IF_ERROR(built.status());
    segment = *std::move(built);
    if (!options_.directory.empty()) {
      QUERN_ASSIGN_OR_RETURN(
          file, WriteIndexFile(SegmentPath(options_.directory, options.file_id),
                               options.file_id, segment->image()));
    }
  }
  Swap(now, chosen, shard, segment, file);
  changed_since_save_ = true;
  return absl::OkStatus();
}

void ShardedIndex::Swap(const Snapshot& before,
                        const std::vector<size_t>& chosen, uint32_t shard,
                        const std::shared_ptr<const Segment>& segment,
                        IndexFile file) {
  absl::MutexLock lock(&write_mutex_);
  const std::shared_ptr<const Snapshot> now = snapshot();
  const auto is_chosen = [&](const IndexPart& part) {
    return std::any_of(chosen.begin(), chosen.end(), [&](size_t p) {
      return before.parts[p].segment == part.segment &&
             before.parts[p].delta == part.delta;
    });
  };
  Snapshot kept = *now;
  kept.parts.clear();
  kept.shard_of.clear();
  kept.file_of.clear();
  std::vector<uint32_t> died;  // Row numbers, since the merge began.
  for (size_t p = 0; p < now->parts.size(); ++p) {
    const IndexPart& part = now->parts[p];
    if (!is_chosen(part)) {
      kept.parts.push_back(part);
      kept.shard_of.push_back(now->shard_of[p]);
      kept.file_of.push_back(now->file_of[p]);
      continue;
    }
    const auto old = std::find_if(
        before.parts.begin(), before.parts.end(), [&](const IndexPart& other) {
          return other.segment == part.segment && other.delta == part.delta;
        });
    if (part.dead == old->dead) continue;
    for (size_t word = 0; word < part.dead->size(); ++word) {
      const uint64_t earlier = old->dead == nullptr ? 0 : (*old->dead)[word];
      for (uint64_t bits = (*part.dead)[word] & ~earlier; bits != 0;
           bits &= bits - 1) {
        died.push_back(part.row_number(static_cast<int64_t>(
            word * 64 + static_cast<size_t>(__builtin_ctzll(bits)))));
      }
    }
  }
  Edit edit(kept);
  if (segment != nullptr) {
    const int64_t rows = segment->rows();
    const size_t part_number = edit.next().parts.size();
    // Rows that died were taken off the count when they did.
    edit.next().live_rows += static_cast<int64_t>(died.size());
    edit.AddPart(shard, {.segment = segment, .rows = rows}, file);
    for (const uint32_t number : died) {
      edit.Kill(part_number, *segment->FindRowNumber(number));
    }
  }
  Publish(edit.Take());
}

void ShardedIndex::PlaceSegments() {
  if (options_.devices == nullptr) return;
  const std::shared_ptr<const Snapshot> now = snapshot();
  for (const IndexPart& part : now->parts) {
    if (part.segment == nullptr || part.device != nullptr ||
        !options_.devices->IsFor(*part.segment)) {
      continue;
    }
    const auto placed = options_.devices->Place(*part.segment);
    if (!placed.ok()) continue;  // shards() says so.
    absl::MutexLock lock(&write_mutex_);
    Edit edit(*snapshot());
    for (IndexPart& other : edit.next().parts) {
      if (other.segment == part.segment) other.device = *placed;
    }
    Publish(edit.Take());
  }
}

absl::Status ShardedIndex::Save() {
  IndexManifest manifest;
  manifest.generation = generation_;
  manifest.dimension = static_cast<uint32_t>(options_.dimension);
  manifest.metric = static_cast<uint32_t>(options_.metric);
  manifest.shards = static_cast<uint32_t>(options_.shards);
  std::optional<FieldIndexWriter> writer;
  {
    absl::MutexLock lock(&write_mutex_);
    const std::shared_ptr<const Snapshot> now = snapshot();
    manifest.next_row = next_row_;
    manifest.sequence = applied_sequence_;
    for (size_t p = 0; p < now->parts.size(); ++p) {
      const IndexPart& part = now->parts[p];
      if (part.segment == nullptr) {
        manifest.sequence = std::min(manifest.sequence, part.delta->sequence());
        continue;
      }
      IndexManifest::Segment entry{.shard = now->shard_of[p],
                                   .file = now->file_of[p]};
      if (part.dead != nullptr) entry.dead = *part.dead;
      manifest.segments.push_back(std::move(entry));
    }
    for (const ShardState& shard : now->shards) {
      manifest.incomplete.push_back(shard.complete ? 0 : 1);
    }
    absl::ReaderMutexLock fields_lock(&fields_mutex_);
    writer.emplace(fields_);
  }
  // Writers wait for no more than a step. What they change meanwhile has later
  // sequence numbers than the manifest.
  for (bool more = true; more;) {
    absl::ReaderMutexLock fields_lock(&fields_mutex_);
    more = writer->Step();
  }
  const std::string fields = writer->Take();
  const uint64_t fields_id = next_file_++;
  QUERN_ASSIGN_OR_RETURN(
      manifest.fields, WriteIndexFile(FieldsPath(options_.directory, fields_id),
                                      fields_id, BytesOf(fields)));
  QUERN_RETURN_IF_ERROR(SaveQueries());
  manifest.queries = queries_file_;
  manifest.next_file = next_file_;
  {
    absl::MutexLock lock(&files_mutex_);
    QUERN_RETURN_IF_ERROR(WriteManifest(options_.directory, manifest));
    RemoveOtherFiles(options_.directory, manifest);
  }
  if (options_.saved != nullptr) options_.saved(manifest.sequence);
  return absl::OkStatus();
}

absl::Status ShardedIndex::SaveQueries() {
  const uint64_t version = queries_.version();
  if (version == saved_queries_) return absl::OkStatus();
  const uint64_t id = next_file_++;
  QUERN_ASSIGN_OR_RETURN(queries_file_,
                         WriteIndexFile(QueriesPath(options_.directory, id), id,
                                        BytesOf(queries_.Bytes())));
  saved_queries_ = version;
  return absl::OkStatus();
}

absl::Status ShardedIndex::LinkFiles(
    const RequestContext& context, const std::string& directory,
    const std::function<absl::Status()>& then) const {
  if (options_.directory.empty()) {
    QUERN_RETURN_IF_ERROR(EnsureDirectory(directory));
    return then();
  }
  absl::MutexLock lock(&files_mutex_);
  QUERN_RETURN_IF_ERROR(LinkIndexFiles(options_.directory, directory, context));
  return then();
}

// --- loading ---

absl::Status ShardedIndex::Load() {
  if (!options_.read_only) {
    QUERN_RETURN_IF_ERROR(EnsureDirectory(options_.directory));
  }
  const absl::StatusOr<IndexManifest> manifest =
      ReadManifest(options_.directory);
  if (absl::IsNotFound(manifest.status())) return absl::OkStatus();
  const auto start_anew = [this](absl::string_view why) {
    MarkIncomplete(
        absl::StrCat(why, "; the index is being built again from the store"));
    return absl::OkStatus();
  };
  if (!manifest.ok()) return start_anew(manifest.status().message());
  if (manifest->dimension != options_.dimension ||
      manifest->metric != static_cast<uint32_t>(options_.metric)) {
    return start_anew("the index's files belong to another collection");
  }
  if (manifest->shards != static_cast<uint32_t>(options_.shards)) {
    return start_anew(absl::StrCat("the index's files have ", manifest->shards,
                                   " shards instead of ", options_.shards));
  }
  if (manifest->sequence < options_.oldest_sequence ||
      manifest->sequence > options_.newest_sequence) {
    return start_anew("the index's files are not of this store's age");
  }
  if (manifest->next_row >
      static_cast<double>(options_.max_row_numbers) * kUsedRowNumbers) {
    return start_anew("most of the index's row numbers are used up");
  }
  const absl::StatusOr<HugeBuffer> field_bytes = ReadIndexFile(
      FieldsPath(options_.directory, manifest->fields.id), manifest->fields);
  if (!field_bytes.ok()) return start_anew(field_bytes.status().message());
  absl::StatusOr<FieldIndex> fields = FieldIndex::Parse(
      {reinterpret_cast<const char*>(field_bytes->data()), field_bytes->size()},
      manifest->next_row);
  if (!fields.ok()) return start_anew(fields.status().message());
  const bool same_fields = std::equal(
      fields->fields().begin(), fields->fields().end(), options_.fields.begin(),
      options_.fields.end(),
      [](const FieldDeclaration& a, const FieldDeclaration& b) {
        return a.path == b.path && a.type == b.type && a.repeated == b.repeated;
      });
  if (!same_fields) return start_anew("other payload fields are declared");

  auto loaded = std::make_shared<Snapshot>();
  loaded->shards.resize(options_.shards);
  for (size_t i = 0; i < loaded->shards.size(); ++i) {
    if (manifest->incomplete[i] == 0) continue;
    loaded->shards[i] = {false,
                         "it was being built again when the server stopped"};
  }
  LoadSegments(*manifest, loaded.get());
  // What was in deltas, or is in a segment that cannot be read, comes again
  // under other numbers.
  RowSet live_rows;
  for (const IndexPart& part : loaded->parts) AddLiveRows(part, &live_rows);
  if (live_rows.size() != loaded->live_rows) {
    return start_anew("the index's segments share row numbers");
  }
  fields->KeepOnly(live_rows);
  {
    absl::MutexLock lock(&work_mutex_);
    generation_ = manifest->generation;
    next_file_ = manifest->next_file;
    LoadQueries(manifest->queries);
  }
  absl::MutexLock lock(&write_mutex_);
  applied_sequence_ = manifest->sequence;
  next_row_ = manifest->next_row;
  absl::MutexLock fields_lock(&fields_mutex_);
  fields_ = *std::move(fields);
  Publish(std::move(loaded));
  return absl::OkStatus();
}

// Without them calibration waits for others.
void ShardedIndex::LoadQueries(const IndexFile& file) {
  if (file.id == 0) return;
  const absl::StatusOr<HugeBuffer> bytes =
      ReadIndexFile(QueriesPath(options_.directory, file.id), file);
  if (!bytes.ok() || !queries_.Parse({bytes->data(), bytes->size()}).ok()) {
    return;
  }
  queries_file_ = file;
}

void ShardedIndex::LoadSegments(const IndexManifest& manifest,
                                Snapshot* loaded) {
  std::vector<absl::StatusOr<std::shared_ptr<const Segment>>> segments(
      manifest.segments.size());
  const size_t threads =
      std::min({segments.size(), kLoadThreads,
                static_cast<size_t>(std::thread::hardware_concurrency())});
  WorkCrew crew(
      {.name = "load", .threads = std::max(0, static_cast<int>(threads) - 1)});
  crew.Run(static_cast<int64_t>(segments.size()),
           [&](int64_t i, int /*worker*/) {
             segments[i] = Guard(kLibrary, [&] {
               return LoadSegment(manifest, manifest.segments[i]);
             });
             return absl::OkStatus();
           })
      .IgnoreError();  // Each segment has its own.
  for (size_t i = 0; i < segments.size(); ++i) {
    const IndexManifest::Segment& entry = manifest.segments[i];
    if (!segments[i].ok()) {
      loaded->shards[entry.shard] = {
          false, absl::StrCat(segments[i].status().message(),
                              "; the shard is being built again from the "
                              "store")};
      continue;
    }
    IndexPart part{.segment = *segments[i], .rows = (*segments[i])->rows()};
    if (!entry.dead.empty()) {
      part.dead = std::make_shared<std::vector<uint64_t>>(entry.dead);
      for (const uint64_t word : entry.dead) {
        part.dead_rows += __builtin_popcountll(word);
      }
    }
    loaded->live_rows += part.live_rows();
    loaded->parts.push_back(std::move(part));
    loaded->shard_of.push_back(entry.shard);
    loaded->file_of.push_back(entry.file);
  }
}

absl::StatusOr<std::shared_ptr<const Segment>> ShardedIndex::LoadSegment(
    const IndexManifest& manifest, const IndexManifest::Segment& entry) const {
  const std::string path = SegmentPath(options_.directory, entry.file.id);
  QUERN_ASSIGN_OR_RETURN(HugeBuffer image, ReadIndexFile(path, entry.file));
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<const Segment> segment,
                         Segment::Parse(std::move(image)));
  const SegmentHeader& header = segment->header();
  const auto words = static_cast<uint64_t>((segment->rows() + 63) / 64);
  const uint64_t past_the_end =
      header.rows % 64 == 0 ? 0 : ~uint64_t{0} << (header.rows % 64);
  if (header.generation != manifest.generation ||
      header.file_id != entry.file.id ||
      header.dimension != manifest.dimension ||
      header.metric != manifest.metric ||
      segment->row_numbers()[header.rows - 1] >= manifest.next_row ||
      (!entry.dead.empty() && (entry.dead.size() != words ||
                               (entry.dead.back() & past_the_end) != 0))) {
    return absl::DataLossError(absl::StrCat(path, " belongs to another index"));
  }
  return segment;
}

}  // namespace quern
