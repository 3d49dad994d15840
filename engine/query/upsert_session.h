#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/thread_pool.h"
#include "engine/query/engine.h"

namespace quern {

// What became of one item of an upsert stream.
struct UpsertResult {
  int64_t index = 0;  // Position in the stream, from 0.
  std::string id;
  absl::Status status;  // OK: durable and searchable.
  bool created = false;
  bool truncated = false;
  uint64_t sequence = 0;          // The item's new one.
  std::vector<StageTime> stages;  // decode, encode; "store" on a batch's first.
};

// One stream of upserts.
//
// Life of an item: Add() -> PrepareItem(), many at once on the pool, or at once
// for a ready-made embedding -> a place in line by its index ->
// Collection::Upsert() together with every prepared neighbour in line (one
// fsync for all) -> on_results, in the order of Add(). When the collection
// changes its model meanwhile, what was prepared for the old one is prepared
// again for the new one, and keeps its place.
//
// Thread-safe. Callbacks run on the pool's threads, one at a time, and may call
// Add().
class UpsertSession : public std::enable_shared_from_this<UpsertSession> {
 public:
  // In stream order. Never empty.
  using OnResults = std::function<void(std::vector<UpsertResult>)>;

  // `engine`, `pool` and `context` must outlive the session's last callback.
  static std::shared_ptr<UpsertSession> Create(
      const Engine* engine, ThreadPool* pool, RequestContext* context,
      std::shared_ptr<Collection> collection, OnResults on_results);

  // Takes the next item of the stream; `owner` keeps what `input` points into
  // alive. The caller bounds how many items are under way. An item that is
  // refused at once gets its result like any other.
  void Add(UpsertInput input, std::shared_ptr<const void> owner);

  // As Add(), for a message that was refused before it became an input.
  void AddRefused(std::string id, absl::Status status);

  // Items added whose results have not been handed out.
  int64_t pending() const;

 private:
  // An item from Add() to its end.
  struct Work {
    int64_t index = 0;
    UpsertInput input;
    std::shared_ptr<const void> owner;       // Of what `input` points into.
    std::shared_ptr<Collection> collection;  // That it is prepared for.
  };

  struct Prepared {
    UpsertResult result;
    Item item;                   // Empty unless result.status is OK.
    std::shared_ptr<Work> work;  // Likewise null.
  };

  UpsertSession(const Engine* engine, ThreadPool* pool, RequestContext* context,
                std::shared_ptr<Collection> collection, OnResults on_results);

  // Prepares an item for the collection as it is now, and puts it in line.
  void Start(std::shared_ptr<Work> work);
  // Calls `done` once, here or on another thread.
  void Prepare(std::shared_ptr<Work> work, std::function<void(Prepared)> done);
  // Puts an item in line. True: the caller must see to CommitAll(), as no other
  // thread is at it.
  bool Enqueue(int64_t index, Prepared prepared);
  // Commits all that stands first in line, until nothing does.
  void CommitAll();
  // CommitAll() on the pool: Add() runs on a thread that must go on reading.
  void CommitAllOnPool();
  // Those that were prepared for one collection.
  std::vector<Prepared> TakeReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Null: the batch is dealt with by PrepareAgain(), by and by.
  std::optional<std::vector<UpsertResult>> Commit(std::vector<Prepared> batch);
  // Waits while the index is_full(), so that the stream is read from no further
  // and its memory is bounded. Errors: those of the context.
  absl::Status AwaitRoom(const Collection& collection) const;
  void PrepareAgain(std::vector<Prepared> batch);

  const Engine* const engine_;
  ThreadPool* const pool_;
  RequestContext* const context_;
  const OnResults on_results_;

  mutable absl::Mutex mutex_;
  std::shared_ptr<Collection> collection_ ABSL_GUARDED_BY(mutex_);
  int64_t next_added_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_committed_ ABSL_GUARDED_BY(mutex_) = 0;
  bool committing_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<int64_t, Prepared> line_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
