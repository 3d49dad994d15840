#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace quern {

// One stored item. The store does not look into `payload`.
struct Item {
  std::string id;       // UTF-8, 1..512 bytes, unique in its collection.
  std::string payload;  // Opaque bytes (a serialised google.protobuf.Struct).
  std::vector<float> embedding;  // [dimension]; empty where it was not read.
  int32_t modality = 0;          // quern.v1.Modality of the media.
  std::string media_uri;         // Where the media lives; may be empty.
  absl::Time create_time;        // First upsert of the id.
  absl::Time update_time;        // Last upsert of the id.
};

// Errors: kInvalidArgument on "id" unless it has 1 to 512 bytes.
absl::Status CheckIdSize(absl::string_view id);

// What a read brings along. Ids and times always come.
struct ItemParts {
  bool payload = true;
  bool embedding = false;
};

// The truth about one collection's items: durable, ordered by id. Thread-safe.
//
// An implementation keeps two promises. After Put() or Delete() returned OK, a
// kill -9 or a power cut loses nothing of it. A call that failed, or never
// returned, has either done all of its items or none.
class ItemStore {
 public:
  virtual ~ItemStore() = default;

  // Inserts or replaces by id, all or none, and syncs to disk. Of items with
  // the same id the last one wins. `create_time` of an item that exists is
  // kept: the one given counts only for new ids. Returns for each item whether
  // its id was new; of equal ids in `items` only the first one's can be.
  // Errors:
  //   kInvalidArgument     an id or an embedding of the wrong size
  //   kResourceExhausted   the disk is full
  //   kFailedPrecondition  the store is read-only since an earlier I/O error
  //   kDataLoss            damaged files
  virtual absl::StatusOr<std::vector<bool>> Put(
      absl::Span<const Item> items) = 0;

  // Removes by id, all or none, and syncs; returns how many existed. Errors as
  // for Put().
  virtual absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids) = 0;

  // One entry per id, in order; nullopt for an id that does not exist.
  virtual absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const = 0;

  // Calls `visit` for every item with an id greater than `after_id` (all for
  // ""), in byte order of the ids, as of one moment, until it returns false.
  virtual absl::Status Scan(absl::string_view after_id, ItemParts parts,
                            const std::function<bool(Item)>& visit) const = 0;

  virtual int64_t count() const = 0;

  // Bytes on disk, roughly.
  virtual int64_t disk_bytes() const = 0;
};

}  // namespace quern
