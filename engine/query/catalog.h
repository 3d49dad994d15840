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
  // Not empty: the catalog has no folder and takes no changes; what is in it
  // comes by Put(), from the snapshots there.
  std::string replica_of;
};

// Why a replica takes no writes, with the cure.
std::string ReplicaReason(absl::string_view replica_of);

// The collections of a data folder, by name.
//
// On disk: LOCK, and collections/<uid>/ with `collection.json` (the record as
// protobuf JSON) and `items/` (the store). A folder without the record is what
// a crash during create, delete or a reindex left; it is removed at open.
// Where a collection is replaced, the new folder has the old one's name in the
// file `replaces` before it gets its record, so that a crash between that and
// the removal of the old record leaves no doubt. Thread-safe.
class Catalog {
 public:
  // Puts the files of a new collection, `items/` and what else it has, into its
  // folder before it is opened.
  using Fill = std::function<absl::Status(const std::string& directory)>;

  // Locks the folder and opens every collection. One that cannot be opened is
  // kept with its error; the others work. Where its record does not tell its
  // name, or the name is taken, it goes by that of its folder.
  // Errors:
  //   kFailedPrecondition  another server has the folder
  //   kPermissionDenied    it cannot be written
  static absl::StatusOr<std::unique_ptr<Catalog>> Open(CatalogOptions options);

  // `record` has name, dimension, model and model_fingerprint set; create_time
  // is set here. Errors: kAlreadyExists, kInvalidArgument for a bad name,
  // kResourceExhausted beyond `max_collections` or on a full disk,
  // kFailedPrecondition on a replica, and those of `fill`.
  absl::StatusOr<std::shared_ptr<Collection>> Create(
      v1::Collection record, const Fill& fill = nullptr);

  // Of a replica: puts the collection in the place of the one of its name, if
  // there is one; whoever has got that goes on with it. `origin` says in a
  // sentence what it is, for its status.
  void Put(std::shared_ptr<Collection> collection, std::string origin);

  // Errors: kFailedPrecondition on a replica.
  absl::Status CheckWritable() const;

  // A collection in a folder of its own, to be given to Replace(): nobody else
  // knows of it, it does not count, and a crash removes it. Who does not want
  // it any more calls Drop(). Errors: those of Create().
  absl::StatusOr<std::shared_ptr<Collection>> CreateShadow(
      v1::Collection record) const;

  // Lets `shadow` take the place of `collection`, of which it has the name,
  // with Collection::ReplaceBy(): all at once for callers, and for a crash.
  // With writers waiting, calls `last` before it. Settings that were changed
  // since the shadow was made are taken over. On error nothing has changed.
  // Errors: kNotFound when the collection is not there any more, kAborted when
  // settings of the index have changed, those of `last`, and
  // kResourceExhausted on a full disk.
  absl::Status Replace(const std::shared_ptr<Collection>& collection,
                       const std::shared_ptr<Collection>& shadow,
                       const std::function<absl::Status()>& last);

  // Errors: kNotFound; the error of opening, for one that could not be opened.
  absl::StatusOr<std::shared_ptr<Collection>> Get(absl::string_view name) const;

  // Changes the settings of a collection, and its record on the disk. `change`
  // gets the record and may change what SettingsOf() reads. Errors: kNotFound;
  // those of `change` and SettingsOf(); kResourceExhausted on a full disk.
  absl::StatusOr<v1::Collection> Update(
      absl::string_view name,
      const std::function<absl::Status(v1::Collection&)>& change);

  // Those that are open.
  std::vector<std::shared_ptr<Collection>> Opened() const;

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
    std::string origin;  // Of a replica's.
  };

  Catalog(CatalogOptions options, std::unique_ptr<DirectoryLock> lock);

  absl::Status LoadAll();
  void LoadFolder(const std::string& directory);
  // Puts the entry of a folder that cannot be opened.
  void KeepFailed(const std::string& directory, std::string name,
                  absl::Status error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts `entry`, whose folder is complete but for the record, in the place of
  // the one that was opened from `old_directory`.
  absl::Status PublishInPlaceOf(const std::string& old_directory,
                                const Entry& entry);
  // Whether a collection of this name can be added.
  absl::Status CheckFree(const std::string& name) const;
  // Makes a collection exist whose folder is complete but for the record.
  absl::Status Publish(const Entry& entry);
  Entry LoadEntry(const std::string& directory, v1::Collection record) const;
  static v1::Collection DescribeEntry(const Entry& entry);

  const CatalogOptions options_;
  const std::unique_ptr<DirectoryLock> lock_;

  // Held while a collection begins or ceases to exist, or is changed.
  absl::Mutex create_mutex_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Entry, std::less<>> entries_ ABSL_GUARDED_BY(mutex_);
};

// Errors: kInvalidArgument on "name" unless it matches
// [a-z0-9][a-z0-9_-]{0,62}.
absl::Status CheckCollectionName(absl::string_view name);

}  // namespace quern
