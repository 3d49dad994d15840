#include "engine/index/part_index.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/index/vector_codes.h"

namespace quern {
namespace {

// An item's slot of the map, its id there and in its chunk.
constexpr int64_t kBytesPerItem = 160;

struct Candidate {
  float score = 0;
  const PartChunk::Entry* entry = nullptr;
};

bool IsBetter(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.entry->id < b.entry->id;
}

// The best `k` of what was offered.
class BestItems {
 public:
  explicit BestItems(int64_t k) : k_(static_cast<size_t>(k)) {}

  void Offer(const Candidate& item) {
    if (heap_.size() < k_) {
      heap_.push_back(item);
    } else if (IsBetter(item, heap_.front())) {
      std::pop_heap(heap_.begin(), heap_.end(), IsBetter);
      heap_.back() = item;
    } else {
      return;
    }
    std::push_heap(heap_.begin(), heap_.end(), IsBetter);
  }

  const std::vector<Candidate>& items() const { return heap_; }

 private:
  size_t k_;
  std::vector<Candidate> heap_;  // The worst on top.
};

}  // namespace

// --- writes ---

// The next snapshot, made beside the one that searches see.
struct PartIndex::Draft {
  explicit Draft(const Snapshot& from)
      : next(std::make_shared<Snapshot>(from)) {}

  ChunkView& ViewOf(const PartChunk& chunk) {
    return *std::lower_bound(next->chunks.begin(), next->chunks.end(),
                             chunk.number(),
                             [](const ChunkView& view, uint64_t number) {
                               return view.chunk->number() < number;
                             });
  }

  void Kill(const Place& place) {
    ChunkView& view = ViewOf(*place.chunk);
    std::shared_ptr<std::vector<bool>>& bits = writable[place.chunk->number()];
    if (bits == nullptr) {
      bits = view.dead == nullptr
                 ? std::make_shared<std::vector<bool>>()
                 : std::make_shared<std::vector<bool>>(*view.dead);
      view.dead = bits;
    }
    if (bits->size() < view.entries) bits->resize(view.entries);
    (*bits)[place.entry] = true;
    const int64_t rows = place.chunk->entry(place.entry).rows;
    view.dead_rows += rows;
    next->parts -= rows;
  }

  std::shared_ptr<Snapshot> next;
  // Bits that this draft made, and may change, by the chunk's number.
  absl::flat_hash_map<uint64_t, std::shared_ptr<std::vector<bool>>> writable;
  std::vector<std::pair<uint32_t, const FieldValues*>> added;  // By slot.
  std::vector<uint32_t> bare;
  std::vector<uint32_t> removed;
};

PartIndex::PartIndex(PartIndexOptions options)
    : options_(std::move(options)),
      fields_(options_.fields),
      snapshot_(std::make_shared<Snapshot>()) {}

absl::Status PartIndex::Upsert(absl::Span<const PartRows> items) {
  for (const PartRows& item : items) {
    if (item.rows.rows == 0 || item.rows.columns == options_.dimension) {
      continue;
    }
    return InvalidField(
        "rows", absl::StrCat("have ", item.rows.columns,
                             " values; the dimension is ", options_.dimension));
  }
  if (items.empty()) return absl::OkStatus();
  absl::MutexLock lock(&write_mutex_);
  Draft draft(*snapshot());
  absl::Status status;
  for (const PartRows& item : items) {
    status = Put(
        item.id, item.fields, item.rows.rows,
        [&item](PartChunk& chunk, uint32_t slot) {
          return chunk.Append(item.id, slot, item.rows);
        },
        draft);
    if (!status.ok()) break;
  }
  Sweep(draft);
  Publish(std::move(draft));
  return status;
}

absl::Status PartIndex::SetFields(absl::string_view id,
                                  const FieldValues& fields) {
  absl::MutexLock lock(&write_mutex_);
  const auto found = places_.find(id);
  if (found == places_.end()) return absl::OkStatus();
  // A slot keeps its values for life, and an entry its slot.
  const Place old = found->second;
  const int64_t rows =
      old.chunk == nullptr ? 0 : old.chunk->entry(old.entry).rows;
  Draft draft(*snapshot());
  absl::Status status = Put(
      id, fields, rows,
      [&old](PartChunk& chunk, uint32_t slot) {
        return chunk.AppendFrom(*old.chunk, old.entry, slot);
      },
      draft);
  Sweep(draft);
  Publish(std::move(draft));
  return status;
}

void PartIndex::Remove(absl::Span<const std::string> ids) {
  absl::MutexLock lock(&write_mutex_);
  const bool is_any_there =
      std::any_of(ids.begin(), ids.end(), [this](const std::string& id) {
        write_mutex_.AssertHeld();
        return places_.contains(id);
      });
  if (!is_any_there) return;
  Draft draft(*snapshot());
  for (const std::string& id : ids) Take(id, draft);
  Sweep(draft);
  Publish(std::move(draft));
}

absl::Status PartIndex::Put(absl::string_view id, const FieldValues& fields,
                            int64_t rows, Append append, Draft& draft) {
  Take(id, draft);
  Snapshot& next = *draft.next;
  if (next.next_slot == std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError(
        "the index of parts has given out all of its numbers: restart the "
        "server, which numbers items anew");
  }
  Place place{.slot = next.next_slot};
  if (rows > 0) {
    QUERN_ASSIGN_OR_RETURN(place, Write(place.slot, rows, append, draft));
  } else {
    draft.bare.push_back(place.slot);
  }
  draft.added.emplace_back(place.slot, &fields);
  places_.emplace(id, place);
  ++next.next_slot;
  ++next.items;
  return absl::OkStatus();
}

void PartIndex::Take(absl::string_view id, Draft& draft) {
  const auto found = places_.find(id);
  if (found == places_.end()) return;
  const Place& place = found->second;
  draft.removed.push_back(place.slot);
  if (place.chunk != nullptr) draft.Kill(place);
  --draft.next->items;
  places_.erase(found);
}

absl::StatusOr<PartIndex::Place> PartIndex::Write(uint32_t slot, int64_t rows,
                                                  Append append, Draft& draft) {
  if (active_ == nullptr || !active_->HasRoom(rows)) {
    QUERN_ASSIGN_OR_RETURN(
        active_,
        PartChunk::Create(options_.dimension,
                          std::max(options_.chunk_rows, rows), next_chunk_++));
    draft.next->chunks.push_back({.chunk = active_});
  }
  const Place place{
      .slot = slot, .chunk = active_.get(), .entry = append(*active_, slot)};
  ChunkView& view = draft.next->chunks.back();
  view.entries = place.entry + 1;
  view.rows += rows;
  draft.next->parts += rows;
  return place;
}

void PartIndex::Sweep(Draft& draft) {
  std::vector<ChunkView>& chunks = draft.next->chunks;
  const size_t before = chunks.size();
  for (size_t i = 0; i < before; ++i) {
    if (chunks[i].chunk == active_) continue;
    if (2 * chunks[i].dead_rows < chunks[i].rows) continue;
    const std::shared_ptr<const PartChunk> chunk = chunks[i].chunk;
    for (uint32_t e = 0; e < chunks[i].entries; ++e) {
      if (chunks[i].IsDead(e)) continue;
      const PartChunk::Entry& entry = chunk->entry(e);
      const absl::StatusOr<Place> place = Write(
          entry.slot, entry.rows,
          [&](PartChunk& to, uint32_t slot) {
            return to.AppendFrom(*chunk, e, slot);
          },
          draft);
      if (!place.ok()) break;  // It stays where it is, until there is memory.
      draft.Kill({.slot = entry.slot, .chunk = chunk.get(), .entry = e});
      places_[entry.id] = *place;
    }
  }
  std::erase_if(chunks, [this](const ChunkView& view) {
    write_mutex_.AssertHeld();
    return view.chunk != active_ && view.dead_rows == view.rows;
  });
}

void PartIndex::Publish(Draft draft) {
  std::shared_ptr<const Snapshot> next = std::move(draft.next);
  absl::MutexLock fields_lock(&fields_mutex_);
  for (const auto& [slot, fields] : draft.added) fields_.Add(slot, *fields);
  bare_.AddMany(draft.bare);
  for (const uint32_t slot : draft.removed) {
    fields_.Remove(slot);
    bare_.Remove(slot);
  }
  absl::MutexLock lock(&snapshot_mutex_);
  snapshot_.swap(next);
}

// --- search ---

// One search of one snapshot.
class PartIndex::Scan {
 public:
  // All must outlive it. `wanted` has a bit for each slot that may be found.
  Scan(const PartIndexOptions& index, const RequestContext& context,
       absl::Span<const float> query, int64_t k, const Snapshot& now,
       const std::vector<uint64_t>& wanted)
      : index_(index),
        context_(context),
        query_(query),
        k_(std::min(k, std::max<int64_t>(now.items, 1))),
        now_(now),
        wanted_(wanted) {}

  absl::StatusOr<std::vector<ScoredId>> Run(int64_t* parts) {
    const auto pieces = static_cast<int64_t>(now_.chunks.size());
    const bool is_small =
        pieces < 2 || now_.parts * now_.chunks.front().chunk->row_bytes() <
                          index_.min_crew_bytes;
    if (index_.crew == nullptr || is_small) {
      workers_.resize(1, Worker(k_));
      for (int64_t i = 0; i < pieces; ++i) QUERN_RETURN_IF_ERROR(Do(i, 0));
    } else {
      workers_.resize(index_.crew->workers(), Worker(k_));
      QUERN_RETURN_IF_ERROR(index_.crew->Run(
          pieces,
          [this](int64_t piece, int worker) { return Do(piece, worker); }));
    }
    return Merge(parts);
  }

 private:
  struct Worker {
    explicit Worker(int64_t k) : best(k) {}
    BestItems best;
    std::vector<float> scores;
    int64_t parts = 0;  // Compared.
  };

  bool IsWanted(const ChunkView& view, uint32_t entry) const {
    const uint32_t slot = view.chunk->entry(entry).slot;
    return !view.IsDead(entry) && (wanted_[slot / 64] >> (slot % 64) & 1) != 0;
  }

  absl::Status Do(int64_t piece, int worker) {
    QUERN_RETURN_IF_ERROR(context_.Check("the end of the search"));
    const ChunkView& view = now_.chunks[piece];
    uint32_t entry = 0;
    while (entry < view.entries) {
      if (!IsWanted(view, entry)) {
        ++entry;
        continue;
      }
      const uint32_t first = entry++;
      while (entry < view.entries && IsWanted(view, entry)) ++entry;
      Compare(*view.chunk, first, entry, workers_[worker]);
    }
    return absl::OkStatus();
  }

  // Entries `first` to `end` - 1, whose rows lie one behind the other.
  void Compare(const PartChunk& chunk, uint32_t first, uint32_t end,
               Worker& worker) const {
    const uint32_t first_row = chunk.entry(first).first_row;
    const PartChunk::Entry& last = chunk.entry(end - 1);
    const size_t rows = last.first_row + last.rows - first_row;
    worker.parts += static_cast<int64_t>(rows);
    worker.scores.resize(rows);
    ScoreRows(query_.codes(), chunk.codes(), nullptr, first_row, rows,
              worker.scores.data());
    const float* scores = worker.scores.data();
    for (uint32_t i = first; i < end; ++i) {
      const PartChunk::Entry& entry = chunk.entry(i);
      worker.best.Offer(
          {*std::max_element(scores, scores + entry.rows), &entry});
      scores += entry.rows;
    }
  }

  std::vector<ScoredId> Merge(int64_t* parts) const {
    std::vector<Candidate> all;
    for (const Worker& worker : workers_) {
      all.insert(all.end(), worker.best.items().begin(),
                 worker.best.items().end());
      *parts += worker.parts;
    }
    std::sort(all.begin(), all.end(), IsBetter);
    if (static_cast<int64_t>(all.size()) > k_) all.resize(k_);
    std::vector<ScoredId> found;
    found.reserve(all.size());
    for (const Candidate& item : all) {
      found.push_back({item.entry->id, item.score});
    }
    return found;
  }

  const PartIndexOptions& index_;
  const RequestContext& context_;
  const EncodedQuery query_;
  const int64_t k_;
  const Snapshot& now_;
  const std::vector<uint64_t>& wanted_;
  std::vector<Worker> workers_;
};

absl::StatusOr<std::vector<ScoredId>> PartIndex::Search(
    const RequestContext& context, absl::Span<const float> query,
    const PartIndexQuery& options, PartIndexStats* stats) const {
  if (options.k < 1) {
    return InvalidField(
        "k", absl::StrCat("is ", options.k, "; it must be at least 1"));
  }
  if (static_cast<int64_t>(query.size()) != options_.dimension) {
    return InvalidField("query", absl::StrCat("has ", query.size(),
                                              " values; the dimension is ",
                                              options_.dimension));
  }
  QUERN_RETURN_IF_ERROR(context.Check("search"));
  *stats = {};
  std::shared_ptr<const Snapshot> now;
  std::vector<uint64_t> wanted;
  {
    // Items must not come and go between the two.
    absl::ReaderMutexLock lock(&fields_mutex_);
    now = snapshot();
    RowSet slots = fields_.Match(options.filter.get(), options.modalities);
    wanted.resize(now->next_slot / 64 + 1);
    slots.ToBitset(absl::MakeSpan(wanted));
    stats->items = slots.size();
    slots &= bare_;
    stats->without_parts = slots.size();
  }
  return Scan(options_, context, query, options.k, *now, wanted)
      .Run(&stats->parts);
}

std::shared_ptr<const PartIndex::Snapshot> PartIndex::snapshot() const {
  absl::MutexLock lock(&snapshot_mutex_);
  return snapshot_;
}

bool PartIndex::Contains(absl::string_view id) const {
  absl::MutexLock lock(&write_mutex_);
  return places_.contains(id);
}

int64_t PartIndex::items() const { return snapshot()->items; }

int64_t PartIndex::parts() const { return snapshot()->parts; }

int64_t PartIndex::memory_bytes() const {
  const std::shared_ptr<const Snapshot> now = snapshot();
  int64_t bytes = now->items * kBytesPerItem;
  for (const ChunkView& view : now->chunks) {
    bytes += view.rows * (view.chunk->row_bytes() +
                          static_cast<int64_t>(sizeof(CodeScale)));
  }
  return bytes;
}

std::string PartIndex::missing() const {
  absl::MutexLock lock(&snapshot_mutex_);
  return missing_;
}

void PartIndex::set_missing(std::string why) {
  absl::MutexLock lock(&snapshot_mutex_);
  missing_ = std::move(why);
}

}  // namespace quern
