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
  // What is kept of its parts, opaque bytes; empty where nothing is, or where
  // it was not read.
  std::string parts = {};
  // What was embedded, the file's bytes or the text; empty where it is not
  // kept, or where it was not read.
  std::string media = {};
  int32_t modality = 0;    // quern.v1.Modality of the media.
  std::string media_uri;   // Where the media lives; may be empty.
  absl::Time create_time;  // First upsert of the id.
  absl::Time update_time;  // Last write of the id.
  // From then on the item does not exist. Null: it stays.
  std::optional<absl::Time> expire_time = std::nullopt;
  // The item's last write. Set by the store; 0 for an item that a store of
  // format 1 wrote.
  uint64_t sequence = 0;
  // For Put() alone: the sequence that the stored item must have.
  std::optional<uint64_t> if_sequence = std::nullopt;
};

// Errors: kInvalidArgument on "id" unless it has 1 to 512 bytes.
absl::Status CheckIdSize(absl::string_view id);

// The text that callers know a sequence by; it changes with every write.
std::string EtagOf(uint64_t sequence);
// The inverse. Errors: kAborted for a text that is no item's.
absl::StatusOr<uint64_t> SequenceOf(absl::string_view etag);

// The status of a PutResult. `stored` is the item's sequence, null for none.
// Errors: kAborted unless it is the one that is asked for.
absl::Status CheckIfSequence(const Item& item, std::optional<uint64_t> stored);

// What a read brings along. Ids always come.
struct ItemParts {
  bool header = true;  // Modality, URI, times, sequence; with any part, too.
  bool payload = true;
  bool embedding = false;
  bool parts = false;
  bool media = false;

  bool ids_only() const {
    return !header && !payload && !embedding && !parts && !media;
  }
};

// What became of one item of a Put().
struct PutResult {
  // kAborted: the stored item has not the `if_sequence` that was asked for, or
  // there is none. It stays as it was; the others of the Put() are written.
  absl::Status status;
  bool created = false;   // The id was new.
  uint64_t sequence = 0;  // Of this write.
};

// The truth about one collection's items: durable, ordered by id. Thread-safe.
//
// An implementation keeps two promises. After a write returned OK, a kill -9 or
// a power cut loses nothing of it. A call that failed, or never returned, has
// either done all of its items or none.
//
// An item whose time is over does not exist for any of these calls, at once;
// its records go with RemoveExpired(). expiry.h has the rule for clocks that
// jump.
//
// Every written or removed item gets a sequence number above all earlier ones.
// The change log says which ids were written under which numbers, so that an
// index that has seen everything up to last_sequence() can catch up later.
class ItemStore {
 public:
  virtual ~ItemStore() = default;

  // Inserts or replaces by id, all or none, and syncs to disk. Of items with
  // the same id the last one wins. `create_time` of an item that exists is
  // kept: the one given counts only for new ids. Of equal ids in `items` only
  // the first one's can be new.
  // Errors:
  //   kInvalidArgument     an id or an embedding of the wrong size
  //   kResourceExhausted   the disk is full
  //   kFailedPrecondition  the store is read-only since an earlier I/O error
  //   kDataLoss            damaged files
  virtual absl::StatusOr<std::vector<PutResult>> Put(
      absl::Span<const Item> items) = 0;

  // Changes an item and leaves its embedding, its parts and its media as they
  // are. `change` gets it without the three and may change payload, media_uri,
  // expire_time and update_time; no other write of the id comes between.
  // Returns the item as written. Errors: kNotFound; those of `change`, after
  // which nothing has changed; those of Put().
  virtual absl::StatusOr<Item> Update(
      const std::string& id,
      const std::function<absl::Status(Item&)>& change) = 0;

  // Removes by id, all or none, and syncs; returns how many existed. Errors as
  // for Put().
  virtual absl::StatusOr<int64_t> Delete(absl::Span<const std::string> ids) = 0;

  // Removes records of at most `limit` expired items, the earliest first, and
  // returns their ids: fewer than `limit` when no more are left. Errors as for
  // Put().
  virtual absl::StatusOr<std::vector<std::string>> RemoveExpired(
      int64_t limit) = 0;

  // Ids of at most `limit` expired items that have records, the earliest first,
  // and only those behind `*place` in that order; empty: all. Moves the place
  // behind them. Fewer than `limit` when no more are left.
  virtual absl::StatusOr<std::vector<std::string>> ListExpired(
      std::string* place, int64_t limit) const = 0;

  // One entry per id, in order; nullopt for an id that does not exist. Where
  // ids alone are asked for, they are taken to have existed, as those that an
  // index has found, and one that was deleted since may come back.
  virtual absl::StatusOr<std::vector<std::optional<Item>>> Get(
      absl::Span<const std::string> ids, ItemParts parts) const = 0;

  // Calls `visit` with the embedding of each of the ids that exists, and its
  // place among them, in their order. Cheaper than Get(), and of an item whose
  // time is over the embedding may still come: for who looks at the item later.
  virtual absl::Status GetEmbeddings(
      absl::Span<const std::string> ids,
      const std::function<void(size_t, absl::Span<const float>)>& visit)
      const = 0;

  // Calls `visit` with what is kept of the parts of each of the ids that has
  // any, and its place among them, in their order, until it returns false.
  // Likewise cheaper than Get(); the bytes are good during the call alone.
  virtual absl::Status VisitParts(
      absl::Span<const std::string> ids,
      const std::function<bool(size_t, absl::string_view)>& visit) const = 0;

  // Calls `visit` for every item with an id greater than `after_id` (all for
  // ""), in byte order of the ids, as of one moment, until it returns false.
  virtual absl::Status Scan(absl::string_view after_id, ItemParts parts,
                            const std::function<bool(Item)>& visit) const = 0;

  // Every write up to this number has ended. An index that was saved at a
  // higher one has seen writes that a power cut took back (possible only where
  // writes are not synced at once), and must be made anew.
  virtual uint64_t last_sequence() const = 0;

  // Calls `visit` for every write after the number `after`, in order, until it
  // returns false. An id comes as often as it was written; what it is now, or
  // that it is gone, Get() tells.
  virtual absl::Status ScanChanges(
      uint64_t after,
      const std::function<bool(uint64_t sequence, absl::string_view id)>& visit)
      const = 0;

  // Of a store that is made as a copy of another one, and has no other writer:
  // takes `items` as they are there, times and sequences included, and removes
  // `removed`; afterwards it is as the other was at `sequence`, as far as these
  // ids go. The first call says in `sequence` up to where the copy has no log.
  // Ids are distinct. All or none; synced as Put() is. Errors: those of Put().
  virtual absl::Status Import(absl::Span<const Item> items,
                              absl::Span<const std::string> removed,
                              uint64_t sequence) = 0;

  // From now on TrimChanges() leaves what came after the number; null: ends
  // that. It is not remembered over a restart.
  virtual void KeepChanges(std::optional<uint64_t> after) = 0;

  // Drops the log up to a number: an index has been saved that has seen it.
  // Errors: kInvalidArgument beyond last_sequence(); those of Put().
  virtual absl::Status TrimChanges(uint64_t up_to) = 0;

  // The log begins behind this number: an index that was saved at a lower one
  // must be made anew by Scan().
  virtual uint64_t trimmed_sequence() const = 0;

  // Why writes are refused, as they would say; OK when they are not, as far as
  // is known.
  virtual absl::Status write_status() const = 0;

  // Copies everything as of one moment to `directory`, which must not exist and
  // lies on the same file system: an open() there finds what was acknowledged
  // before the call. Writers go on meanwhile, and what they write later is not
  // in the copy. On error nothing is left there.
  // Errors: kAlreadyExists, kResourceExhausted (the disk is full), kInternal.
  virtual absl::Status Checkpoint(const std::string& directory) const = 0;

  // Items with records, expired ones too.
  virtual int64_t count() const = 0;

  // Bytes on disk, roughly.
  virtual int64_t disk_bytes() const = 0;
};

}  // namespace quern
