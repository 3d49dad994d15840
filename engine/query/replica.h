#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#include "engine/base/clock.h"
#include "engine/base/request_context.h"
#include "engine/query/catalog.h"
#include "engine/query/collection.h"
#include "engine/snapshot/snapshot_folder.h"

namespace quern {

struct ReplicaOptions {
  std::string path;  // A folder of snapshots, that of another server.
  CollectionFactories factories;
  const Clock* clock = nullptr;  // Must outlive the replica.
  // Between two looks at the folder; > 0.
  absl::Duration interval = absl::Seconds(1);
  // Told of every snapshot that was opened, or could not be; once of one whose
  // manifest cannot be read. On the replica's thread. Null: nobody.
  std::function<void(const std::string& collection, const std::string& snapshot,
                     const absl::Status& status)>
      on_open;
};

// Fills a catalog with the newest snapshot of every collection in a folder, and
// keeps following: a newer snapshot is verified and opened beside the one that
// serves, then takes its place; that one ends with its last search. One that
// cannot be opened changes nothing and is tried again later, ever more rarely,
// since it may still be on its way from another machine. A collection whose
// snapshots are all gone is served on. Thread-safe.
class Replica {
 public:
  // Opens what is there now, then follows on a thread of its own. `catalog`, a
  // replica's, must outlive the result. Errors: kNotFound when the folder is
  // not there; none for what cannot be opened.
  static absl::StatusOr<std::unique_ptr<Replica>> Start(ReplicaOptions options,
                                                        Catalog* catalog);
  ~Replica();

  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;

  // Looks at the folder now.
  void Follow();

 private:
  // Of one collection.
  struct Served {
    std::string name;  // Of the snapshot; empty: none.
    absl::Time create_time;
    int failures = 0;  // In a row.
    absl::Time retry_time = absl::InfinitePast();
  };

  Replica(ReplicaOptions options, std::unique_ptr<SnapshotFolder> folder,
          Catalog* catalog);

  void Run();
  void FollowCollection(const std::vector<SnapshotInfo>& newest_first)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(follow_mutex_);
  // Tells of `damaged`, those without a readable manifest, that are new.
  void TellOfDamaged(const std::vector<SnapshotInfo>& damaged)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(follow_mutex_);
  absl::Status OpenSnapshot(const SnapshotInfo& snapshot);

  const ReplicaOptions options_;
  const std::unique_ptr<SnapshotFolder> folder_;
  Catalog* const catalog_;
  RequestContext context_;  // Cancelled at the end.

  absl::Mutex follow_mutex_;  // Held over a look at the folder.
  std::map<std::string, Served> served_ ABSL_GUARDED_BY(follow_mutex_);
  // Collection and name of those that were told of as damaged.
  std::set<std::pair<std::string, std::string>> damaged_
      ABSL_GUARDED_BY(follow_mutex_);

  absl::Mutex stop_mutex_;
  bool stopping_ ABSL_GUARDED_BY(stop_mutex_) = false;
  std::thread thread_;
};

}  // namespace quern
