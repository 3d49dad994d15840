#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/types/span.h"

#include "engine/base/matrix.h"
#include "engine/index/part_index.h"
#include "engine/store/item_store.h"

namespace quern {

// Keeps the index of a collection's parts in step with its store: of the
// pictures and the videos there, what is kept of their parts. Methods are
// called with the collection's write mutex held, unless they say otherwise.
class PartSync {
 public:
  // The index is empty, and says so, until Fill(). `store` and `write_mutex`
  // must outlive the object. `filled`, called with the mutex held, is told when
  // the index has all that the store has.
  PartSync(PartIndexOptions options, const ItemStore* store,
           absl::Mutex* write_mutex, std::function<void()> filled);
  // The mutex must not be held.
  ~PartSync();

  PartSync(const PartSync&) = delete;
  PartSync& operator=(const PartSync&) = delete;

  std::shared_ptr<const PartIndex> index() const { return index_; }

  // Reads the whole store, once, while searches and writes go on: at once where
  // it has few items, otherwise on a thread of its own. The mutex must not be
  // held.
  void Fill();

  // Adds what the store has just taken; of equal ids the last one counts. On an
  // error the index says that it lacks items. Errors: kResourceExhausted.
  absl::Status Add(absl::Span<const Item* const> items);
  // Takes over what the store now has, or has no more, of some ids. Errors:
  // likewise, and those of reading the store.
  absl::Status Refresh(absl::Span<const std::string> ids);
  // Takes over an item whose payload alone has changed. Errors: likewise, and
  // those of reading the store.
  absl::Status TakePayload(const std::string& id);
  void Remove(absl::Span<const std::string> ids) { index_->Remove(ids); }

 private:
  absl::Status ReadStore();
  // The next pictures and videos behind `after_id` that the index lacks; false:
  // there are no more items.
  absl::StatusOr<bool> NextMissing(std::string& after_id,
                                   std::vector<std::string>& missing) const;
  std::vector<Matrix> RowsOfAll(absl::Span<const Item* const> items) const;
  // Without rows where nothing is kept of the item's parts, or that is damaged.
  Matrix RowsOf(const Item& item) const;
  // Passes `status` on; an error is why the index lacks items from now on.
  absl::Status Noted(absl::Status status);

  const int64_t dimension_;
  const std::vector<FieldDeclaration> fields_;
  const std::shared_ptr<WorkCrew> crew_;
  const std::shared_ptr<PartIndex> index_;
  const ItemStore& store_;
  absl::Mutex& write_mutex_;
  const std::function<void()> filled_;
  bool lacks_ = false;  // Since the store was read last; with the mutex held.
  absl::Notification stop_;
  std::thread filler_;
};

}  // namespace quern
