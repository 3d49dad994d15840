#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

#include "engine/filter/field_values.h"
#include "engine/filter/filter.h"
#include "engine/index/vector_index.h"
#include "engine/store/item_store.h"
#include "quern/v1/collections.pb.h"

namespace quern {

// The payload fields that filters over a collection may name; a record that
// cannot be read has none.
std::vector<FieldDeclaration> FieldsOf(const v1::Collection& record);

// What filters see of an item that was read with its payload. What cannot be
// read matches no condition on it; the item is found without one.
FieldValues FieldValuesOf(const Item& item,
                          absl::Span<const FieldDeclaration> fields);

// Keeps a collection's index in step with its store. Methods are called with
// the collection's write mutex held, unless they say otherwise.
class IndexSync {
 public:
  // All must outlive the object. `write_mutex` is taken by the repair, which
  // begins with StartRepair().
  IndexSync(const ItemStore* store, VectorIndex* index,
            const v1::Collection& record, absl::Mutex* write_mutex);
  ~IndexSync();

  IndexSync(const IndexSync&) = delete;
  IndexSync& operator=(const IndexSync&) = delete;

  // Those that the index was made with.
  const std::vector<FieldDeclaration>& fields() const { return fields_; }

  // Gives an index that was just opened what the store has since it was saved.
  // One that must be made from the whole store is filled at once while that is
  // quick, and is otherwise left incomplete. The mutex is not needed.
  absl::Status CatchUp();

  // Fills an incomplete index on a thread of its own: searches and writes go
  // on. The mutex must not be held.
  void StartRepair();

  // Around every write of the store and what the index is told of it. Where
  // the write before did not come to its end, the store may have done it all
  // the same: all changes that the index has not seen are then read from the
  // log, and `take` gets their ids, too. On an error the next write tries
  // again.
  void BeginWrite();
  absl::Status EndWrite(
      const std::function<absl::Status(absl::Span<const std::string>)>& take);

  // Adds what the store has just taken; of equal ids the last one counts.
  absl::Status Add(absl::Span<const Item* const> items);
  // Whether an index sees that an item has changed from one to the other, whose
  // vectors are the same.
  bool SeesChange(const Item& before, const Item& after) const;
  // Takes over what the store now has, or has no more, of some ids.
  absl::Status Refresh(absl::Span<const std::string> ids);
  // Takes over an item whose payload alone has changed.
  absl::Status TakePayload(const std::string& id);
  absl::Status Remove(absl::Span<const std::string> ids);

 private:
  absl::Status FillFromScan();
  // Takes over, some at a time, what was written since applied_sequence().
  absl::Status Replay(
      const std::function<absl::Status(absl::Span<const std::string>)>& take);
  absl::Status Repair();

  const ItemStore& store_;
  VectorIndex& index_;
  const int64_t dimension_;
  const std::vector<FieldDeclaration> fields_;
  absl::Mutex& write_mutex_;
  // A write has begun and not ended; one before it never did. With the mutex
  // held.
  bool is_writing_ = false;
  bool is_behind_ = false;
  std::atomic<bool> stopping_ = false;
  std::thread repair_;
};

}  // namespace quern
