#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/query/collection.h"

namespace quern {

struct CatalogOptions {
  // The data folder. Created when it is not there.
  std::string path;
  int64_t max_collections = 1000;  // >= 1.
  CollectionFactories factories;
  const Clock* clock = nullptr;  // Must outlive the catalog.
};

// The collections of a data folder, by name.
//
// On disk: LOCK, and collections/<uid>/ with `collection.json` (the record as
// protobuf JSON) and `items/` (the store). A folder without the record is what
// a crash during create or delete left; it is removed at open. Thread-safe.
class Catalog {
 public:
  // Locks the folder and opens every collection. One that cannot be opened is
  // kept with its error; the others work.
  // Errors:
  //   kFailedPrecondition  another server has the folder
  //   kPermissionDenied    it cannot be written
  static absl::StatusOr<std::unique_ptr<Catalog>> Open(CatalogOptions options);

  // `record` has name, dimension, model and model_fingerprint set; create_time
  // is set here. Errors: kAlreadyExists, kInvalidArgument for a bad name,
  // kResourceExhausted beyond `max_collections` or on a full disk.
  absl::StatusOr<std::shared_ptr<Collection>> Create(v1::Collection record);

  // Errors: kNotFound; the error of opening, for one that could not be opened.
  absl::StatusOr<std::shared_ptr<Collection>> Get(absl::string_view name) const;

  // The record and status, also of a collection that could not be opened.
  absl::StatusOr<v1::Collection> Describe(absl::string_view name) const;

  // In byte order of their names, from the first after `after_name`, at most
  // `limit`.
  std::vector<v1::Collection> List(absl::string_view after_name,
                                   int64_t limit) const;

  // Returns how many items are gone. Errors: kNotFound.
  absl::StatusOr<int64_t> Delete(absl::string_view name);

 private:
  struct Entry {
    std::string directory;
    v1::Collection record;
    std::shared_ptr<Collection> collection;  // Null when `error` is set.
    absl::Status error;
  };

  Catalog(CatalogOptions options, std::unique_ptr<DirectoryLock> lock);

  absl::Status LoadAll();
  Entry LoadEntry(const std::string& directory, v1::Collection record) const;
  static v1::Collection DescribeEntry(const Entry& entry);

  const CatalogOptions options_;
  const std::unique_ptr<DirectoryLock> lock_;

  // Held while a collection is created, so that two creates of one name queue.
  absl::Mutex create_mutex_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Entry, std::less<>> entries_ ABSL_GUARDED_BY(mutex_);
};

// Errors: kInvalidArgument on "name" unless it matches
// [a-z0-9][a-z0-9_-]{0,62}.
absl::Status CheckCollectionName(absl::string_view name);

}  // namespace quern
