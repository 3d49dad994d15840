#include "engine/query/replica.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/query/collection_record.h"

namespace quern {
namespace {

constexpr absl::Duration kMaxRetryDelay = absl::Minutes(1);
constexpr int kMaxDoublings = 6;

}  // namespace

absl::StatusOr<std::unique_ptr<Replica>> Replica::Start(ReplicaOptions options,
                                                        Catalog* catalog) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(options.path, ignored)) {
    return absl::NotFoundError(absl::StrCat(
        "storage.replica_of: ", options.path,
        " is not a folder: name the folder \"snapshots\" in the storage.path "
        "of the server that makes them, or a copy of it"));
  }
  QUERN_ASSIGN_OR_RETURN(
      std::unique_ptr<SnapshotFolder> folder,
      SnapshotFolder::Open(
          {.path = options.path, .read_only = true, .clock = options.clock}));
  auto replica = absl::WrapUnique(
      new Replica(std::move(options), std::move(folder), catalog));
  replica->Follow();
  replica->thread_ = std::thread([raw = replica.get()] { raw->Run(); });
  return replica;
}

Replica::Replica(ReplicaOptions options, std::unique_ptr<SnapshotFolder> folder,
                 Catalog* catalog)
    : options_(std::move(options)),
      folder_(std::move(folder)),
      catalog_(catalog),
      context_(options_.clock, "replica") {}

Replica::~Replica() {
  context_.Cancel();
  {
    absl::MutexLock lock(&stop_mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Replica::Run() {
  while (true) {
    {
      absl::MutexLock lock(&stop_mutex_);
      stop_mutex_.AwaitWithTimeout(absl::Condition(&stopping_),
                                   options_.interval);
      if (stopping_) return;
    }
    Follow();
  }
}

void Replica::Follow() {
  absl::MutexLock lock(&follow_mutex_);
  const absl::StatusOr<std::vector<SnapshotInfo>> found = folder_->List("");
  // The folder may be out of reach for a while.
  if (!found.ok()) return;
  std::map<std::string, std::vector<SnapshotInfo>> by_collection;
  std::vector<SnapshotInfo> damaged;
  for (const SnapshotInfo& snapshot : *found) {
    (snapshot.error.ok() ? by_collection[snapshot.collection] : damaged)
        .push_back(snapshot);
  }
  TellOfDamaged(damaged);
  for (const auto& [collection, newest_first] : by_collection) {
    FollowCollection(newest_first);
  }
}

void Replica::TellOfDamaged(const std::vector<SnapshotInfo>& damaged) {
  std::set<std::pair<std::string, std::string>> keys;
  for (const SnapshotInfo& snapshot : damaged) {
    const auto key = keys.emplace(snapshot.collection, snapshot.name).first;
    if (damaged_.contains(*key) || options_.on_open == nullptr) continue;
    options_.on_open(snapshot.collection, snapshot.name, snapshot.error);
  }
  damaged_ = std::move(keys);
}

void Replica::FollowCollection(const std::vector<SnapshotInfo>& newest_first) {
  const std::string& collection = newest_first.front().collection;
  Served& served = served_[collection];
  const auto is_served = [&served](const SnapshotInfo& snapshot) {
    return snapshot.name == served.name &&
           snapshot.create_time == served.create_time;
  };
  if (is_served(newest_first.front())) return;
  if (options_.clock->Now() < served.retry_time) return;
  for (const SnapshotInfo& snapshot : newest_first) {
    if (is_served(snapshot)) break;
    const absl::Status status = OpenSnapshot(snapshot);
    if (options_.on_open != nullptr && !context_.cancelled()) {
      options_.on_open(collection, snapshot.name, status);
    }
    if (status.ok()) {
      served.name = snapshot.name;
      served.create_time = snapshot.create_time;
      if (is_served(newest_first.front())) {
        served.failures = 0;
        served.retry_time = absl::InfinitePast();
        return;
      }
      break;
    }
    if (context_.cancelled()) return;
  }
  // The newest is not served.
  const int doublings = std::min(served.failures++, kMaxDoublings);
  served.retry_time =
      options_.clock->Now() +
      std::min(options_.interval * (1 << doublings), kMaxRetryDelay);
}

absl::Status Replica::OpenSnapshot(const SnapshotInfo& snapshot) {
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<const SnapshotFolder::Use> use,
                         folder_->Open(snapshot.collection, snapshot.name));
  QUERN_RETURN_IF_ERROR(
      VerifyFiles(use->directory(), use->manifest(), context_));
  QUERN_ASSIGN_OR_RETURN(v1::Collection record, ReadRecord(use->directory()));
  record.set_name(snapshot.collection);
  CollectionFactories factories = options_.factories;
  factories.open_store = [this](const std::string& path,
                                const v1::Collection& collection) {
    return options_.factories.open_read_only(path, collection,
                                             ReplicaReason(options_.path));
  };
  QUERN_ASSIGN_OR_RETURN(
      std::unique_ptr<Collection> collection,
      Collection::Open(use->directory(), std::move(record), factories));
  catalog_->Put(
      std::move(collection),
      absl::StrCat("a replica's copy: snapshot ", Quoted(snapshot.name), " of ",
                   absl::FormatTime(absl::RFC3339_sec, snapshot.create_time,
                                    absl::UTCTimeZone())));
  return absl::OkStatus();
}

}  // namespace quern
