#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "engine/base/clock.h"
#include "engine/base/request_context.h"
#include "engine/snapshot/manifest.h"

namespace quern {

struct SnapshotInfo {
  std::string collection;  // That it is filed under.
  std::string name;
  int64_t item_count = 0;
  int64_t size_bytes = 0;
  absl::Time create_time;
  std::string model_fingerprint;
  // Why its manifest cannot be read, as ReadSnapshotManifest() says; of such a
  // one only the names are known.
  absl::Status error;
};

struct SnapshotFolderOptions {
  std::string path;
  // Somebody else's: nothing is created, cleaned up or deleted.
  bool read_only = false;
  const Clock* clock = nullptr;  // Must outlive the folder.
};

// The snapshots on a disk: <path>/<collection>/<name>/. They do not know
// whether their collections are still there.
//
// A snapshot that is being made is a hidden folder beside the others and gets
// its name at the end, by one rename: a folder with a name is whole. One that
// is deleted loses its name first. Hidden folders are what a crash left and go
// at Open(). Thread-safe; a folder has one writer (the data folder's lock sees
// to that) and any number of readers.
class SnapshotFolder {
 public:
  class Draft;
  class Use;

  // Errors: those of creating the folder and of listing it.
  static absl::StatusOr<std::unique_ptr<SnapshotFolder>> Open(
      SnapshotFolderOptions options);

  // Newest first; those of equal times in byte order of collection and name.
  // Of all collections for "". Those without a readable manifest come last.
  absl::StatusOr<std::vector<SnapshotInfo>> List(
      absl::string_view collection) const;

  // Begins a snapshot. An empty name becomes the time, as 20261123-184501. The
  // folder must outlive the draft. Errors: kInvalidArgument on "name" or
  // "collection"; kAlreadyExists.
  absl::StatusOr<std::unique_ptr<Draft>> Begin(const std::string& collection,
                                               const std::string& name);

  // Keeps a snapshot from being deleted while it is read. The folder must
  // outlive the result. Errors: kNotFound.
  absl::StatusOr<std::shared_ptr<const Use>> Open(
      const std::string& collection, const std::string& name) const;

  // Errors: kNotFound; kFailedPrecondition while it is in use.
  absl::Status Delete(const std::string& collection, const std::string& name);

  const std::string& path() const { return options_.path; }

 private:
  using Key = std::pair<std::string, std::string>;  // Collection and name.

  explicit SnapshotFolder(SnapshotFolderOptions options);

  absl::Status RemoveLeftovers() const;
  absl::Status CheckWritable() const;
  std::string CollectionPath(absl::string_view collection) const;
  std::string PathOf(const Key& key) const;
  std::string HiddenPath(absl::string_view collection) const;
  // The time as a name that is not taken.
  std::string NameOfNow(const std::string& collection) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsTaken(const Key& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const SnapshotFolderOptions options_;
  mutable absl::Mutex mutex_;
  // Names of drafts.
  std::set<Key> begun_ ABSL_GUARDED_BY(mutex_);
  // How many read each snapshot; none is 0.
  mutable std::map<Key, int> used_ ABSL_GUARDED_BY(mutex_);
};

// A snapshot that is being made; without Commit() it leaves nothing. Not
// thread-safe.
class SnapshotFolder::Draft {
 public:
  ~Draft();

  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  // To be filled.
  const std::string& directory() const { return directory_; }
  const std::string& name() const { return key_.second; }

  // The manifest of the files that lie in the folder, with their checksums. A
  // file that the newest snapshots of the collection share with it was hashed
  // then. Errors: those of reading and of the context.
  absl::StatusOr<SnapshotManifest> Describe(int64_t item_count,
                                            std::string model_fingerprint,
                                            const RequestContext& context);

  // Writes the manifest unless the folder has it, syncs everything and gives
  // the snapshot its name. Called once, last.
  absl::StatusOr<SnapshotInfo> Commit(const SnapshotManifest& manifest);

 private:
  friend class SnapshotFolder;

  Draft(SnapshotFolder* folder, Key key, std::string directory);

  SnapshotFolder* const folder_;
  const Key key_;
  const std::string directory_;
};

// A snapshot that is being read.
class SnapshotFolder::Use {
 public:
  ~Use();

  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

  const std::string& directory() const { return directory_; }
  const SnapshotManifest& manifest() const { return manifest_; }

 private:
  friend class SnapshotFolder;

  Use(const SnapshotFolder* folder, Key key, std::string directory);

  const SnapshotFolder* const folder_;
  const Key key_;
  const std::string directory_;
  SnapshotManifest manifest_;
};

}  // namespace quern
