#include "engine/snapshot/snapshot_folder.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <tuple>

#include "absl/cleanup/cleanup.h"
#include "absl/memory/memory.h"
#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/name.h"
#include "engine/base/status_macros.h"
#include "engine/snapshot/snapshot_files.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

void RemoveFolder(const std::string& path) {
  std::error_code ignored;  // Tried again when the folder is opened next.
  fs::remove_all(path, ignored);
}

bool Exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

absl::Status NoSnapshot(const std::string& collection,
                        const std::string& name) {
  return NotFound("snapshot", absl::StrCat(collection, "/", name));
}

absl::Status CheckKey(const std::string& collection, const std::string& name) {
  QUERN_RETURN_IF_ERROR(CheckName(collection, "collection", "collection"));
  return CheckName(name, "snapshot");
}

SnapshotInfo InfoOf(const SnapshotManifest& manifest,
                    const std::string& collection, const std::string& name) {
  return {.collection = collection,
          .name = name,
          .item_count = manifest.item_count,
          .size_bytes = manifest.size_bytes(),
          .create_time = manifest.create_time,
          .model_fingerprint = manifest.model_fingerprint};
}

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotFolder>> SnapshotFolder::Open(
    SnapshotFolderOptions options) {
  auto folder = absl::WrapUnique(new SnapshotFolder(std::move(options)));
  if (folder->options_.read_only) return folder;
  QUERN_RETURN_IF_ERROR(EnsureDirectory(folder->path()));
  QUERN_RETURN_IF_ERROR(folder->RemoveLeftovers());
  return folder;
}

SnapshotFolder::SnapshotFolder(SnapshotFolderOptions options)
    : options_(std::move(options)) {}

absl::Status SnapshotFolder::RemoveLeftovers() const {
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> collections,
                         ListFolders(path()));
  for (const std::string& collection : collections) {
    const std::string parent = CollectionPath(collection);
    QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                           ListFolders(parent));
    for (const std::string& name : names) {
      if (absl::StartsWith(name, ".")) {
        RemoveFolder(absl::StrCat(parent, "/", name));
      }
    }
    std::error_code not_empty;
    fs::remove(parent, not_empty);
  }
  return absl::OkStatus();
}

absl::Status SnapshotFolder::CheckWritable() const {
  if (!options_.read_only) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("this server only reads the snapshots in ", path()));
}

std::string SnapshotFolder::CollectionPath(absl::string_view collection) const {
  return absl::StrCat(path(), "/", collection);
}

std::string SnapshotFolder::PathOf(const Key& key) const {
  return absl::StrCat(CollectionPath(key.first), "/", key.second);
}

std::string SnapshotFolder::HiddenPath(absl::string_view collection) const {
  absl::BitGen random;
  return absl::StrCat(
      CollectionPath(collection),
      absl::StrFormat("/.%016x", absl::Uniform<uint64_t>(random)));
}

bool SnapshotFolder::IsTaken(const Key& key) const {
  return begun_.contains(key) || Exists(PathOf(key));
}

std::string SnapshotFolder::NameOfNow(const std::string& collection) const {
  const std::string time = absl::FormatTime(
      "%Y%m%d-%H%M%S", options_.clock->Now(), absl::UTCTimeZone());
  std::string name = time;
  for (int i = 2; IsTaken({collection, name}); ++i) {
    name = absl::StrCat(time, "-", i);
  }
  return name;
}

absl::StatusOr<std::vector<SnapshotInfo>> SnapshotFolder::List(
    absl::string_view collection) const {
  std::vector<std::string> collections;
  if (collection.empty()) {
    QUERN_ASSIGN_OR_RETURN(collections, ListFolders(path()));
  } else {
    QUERN_RETURN_IF_ERROR(CheckName(collection, "collection", "collection"));
    collections.emplace_back(collection);
  }
  std::vector<SnapshotInfo> found;
  for (const std::string& owner : collections) {
    QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                           ListFolders(CollectionPath(owner)));
    for (const std::string& name : names) {
      if (!CheckKey(owner, name).ok()) continue;
      const absl::StatusOr<SnapshotManifest> manifest =
          ReadSnapshotManifest(PathOf({owner, name}));
      if (manifest.ok()) {
        found.push_back(InfoOf(*manifest, owner, name));
      } else if (Exists(PathOf({owner, name}))) {  // Not deleted meanwhile.
        found.push_back({.collection = owner,
                         .name = name,
                         .create_time = absl::UnixEpoch(),
                         .error = manifest.status()});
      }
    }
  }
  std::sort(found.begin(), found.end(),
            [](const SnapshotInfo& a, const SnapshotInfo& b) {
              return std::tie(b.create_time, a.collection, a.name) <
                     std::tie(a.create_time, b.collection, b.name);
            });
  return found;
}

absl::StatusOr<std::unique_ptr<SnapshotFolder::Draft>> SnapshotFolder::Begin(
    const std::string& collection, const std::string& name) {
  QUERN_RETURN_IF_ERROR(CheckWritable());
  QUERN_RETURN_IF_ERROR(CheckName(collection, "collection", "collection"));
  if (!name.empty()) QUERN_RETURN_IF_ERROR(CheckName(name, "snapshot"));
  absl::MutexLock lock(&mutex_);
  const Key key = {collection, name.empty() ? NameOfNow(collection) : name};
  if (IsTaken(key)) {
    return AlreadyExists("snapshot", absl::StrCat(collection, "/", name));
  }
  std::string directory = HiddenPath(collection);
  QUERN_RETURN_IF_ERROR(EnsureDirectory(directory));
  begun_.insert(key);
  return absl::WrapUnique(new Draft(this, key, std::move(directory)));
}

absl::StatusOr<std::shared_ptr<const SnapshotFolder::Use>> SnapshotFolder::Open(
    const std::string& collection, const std::string& name) const {
  QUERN_RETURN_IF_ERROR(CheckKey(collection, name));
  const Key key = {collection, name};
  std::shared_ptr<Use> use;
  {
    absl::MutexLock lock(&mutex_);
    if (!Exists(PathOf(key))) return NoSnapshot(collection, name);
    ++used_[key];
    use = absl::WrapUnique(new Use(this, key, PathOf(key)));
  }
  QUERN_ASSIGN_OR_RETURN(use->manifest_,
                         ReadSnapshotManifest(use->directory()));
  return use;
}

absl::Status SnapshotFolder::Delete(const std::string& collection,
                                    const std::string& name) {
  QUERN_RETURN_IF_ERROR(CheckWritable());
  QUERN_RETURN_IF_ERROR(CheckKey(collection, name));
  const Key key = {collection, name};
  const std::string hidden = HiddenPath(collection);
  {
    absl::MutexLock lock(&mutex_);
    if (used_.contains(key)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "snapshot ", Quoted(absl::StrCat(collection, "/", name)),
          " is being exported or restored: delete it when that is done"));
    }
    const absl::Status renamed = RenameFolder(PathOf(key), hidden);
    if (absl::IsNotFound(renamed)) return NoSnapshot(collection, name);
    QUERN_RETURN_IF_ERROR(renamed);
  }
  RemoveFolder(hidden);
  absl::MutexLock lock(&mutex_);
  std::error_code not_empty;
  fs::remove(CollectionPath(collection), not_empty);
  return absl::OkStatus();
}

SnapshotFolder::Draft::Draft(SnapshotFolder* folder, Key key,
                             std::string directory)
    : folder_(folder), key_(std::move(key)), directory_(std::move(directory)) {}

SnapshotFolder::Draft::~Draft() {
  RemoveFolder(directory_);  // Not there any more after Commit().
  absl::MutexLock lock(&folder_->mutex_);
  folder_->begun_.erase(key_);
  std::error_code not_empty;
  fs::remove(folder_->CollectionPath(key_.first), not_empty);
}

namespace {

// Files of a snapshot by what they are on the disk.
absl::StatusOr<std::vector<std::pair<FileIdentity, std::string>>> KnownHashes(
    const SnapshotFolder& folder, const std::string& collection) {
  std::vector<std::pair<FileIdentity, std::string>> known;
  QUERN_ASSIGN_OR_RETURN(const std::vector<SnapshotInfo> snapshots,
                         folder.List(collection));
  if (snapshots.empty()) return known;
  const auto newest = folder.Open(collection, snapshots.front().name);
  if (!newest.ok()) return known;
  for (const SnapshotFile& file : (*newest)->manifest().files) {
    const auto identity =
        IdentifyFile(absl::StrCat((*newest)->directory(), "/", file.path));
    if (identity.ok() && identity->bytes == file.bytes) {
      known.emplace_back(*identity, file.sha256);
    }
  }
  return known;
}

}  // namespace

absl::StatusOr<SnapshotManifest> SnapshotFolder::Draft::Describe(
    int64_t item_count, std::string model_fingerprint,
    const RequestContext& context) {
  SnapshotManifest manifest{.collection = key_.first,
                            .name = key_.second,
                            .item_count = item_count,
                            .create_time = folder_->options_.clock->Now(),
                            .model_fingerprint = std::move(model_fingerprint)};
  QUERN_ASSIGN_OR_RETURN(const auto known, KnownHashes(*folder_, key_.first));
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                         ListFiles(directory_));
  for (const std::string& path : paths) {
    QUERN_RETURN_IF_ERROR(CheckFilePath(path));
    const std::string whole = absl::StrCat(directory_, "/", path);
    QUERN_ASSIGN_OR_RETURN(const FileIdentity identity, IdentifyFile(whole));
    SnapshotFile file{.path = path, .bytes = identity.bytes};
    const auto same = std::find_if(
        known.begin(), known.end(),
        [&](const auto& entry) { return entry.first == identity; });
    if (same != known.end()) {
      file.sha256 = same->second;
    } else {
      QUERN_ASSIGN_OR_RETURN(file.sha256, HashFile(whole, context));
    }
    manifest.files.push_back(std::move(file));
  }
  return manifest;
}

absl::StatusOr<SnapshotInfo> SnapshotFolder::Draft::Commit(
    const SnapshotManifest& manifest) {
  const std::string path = absl::StrCat(directory_, "/", kSnapshotManifestFile);
  if (!Exists(path)) {
    QUERN_RETURN_IF_ERROR(
        WriteFileAtomically(path, FormatSnapshotManifest(manifest)));
  }
  QUERN_RETURN_IF_ERROR(SyncTree(directory_));
  const absl::Status renamed = RenameFolder(directory_, folder_->PathOf(key_));
  if (absl::IsAlreadyExists(renamed)) {
    return AlreadyExists("snapshot",
                         absl::StrCat(key_.first, "/", key_.second));
  }
  QUERN_RETURN_IF_ERROR(renamed);
  return InfoOf(manifest, key_.first, key_.second);
}

SnapshotFolder::Use::Use(const SnapshotFolder* folder, Key key,
                         std::string directory)
    : folder_(folder), key_(std::move(key)), directory_(std::move(directory)) {}

SnapshotFolder::Use::~Use() {
  absl::MutexLock lock(&folder_->mutex_);
  const auto used = folder_->used_.find(key_);
  if (--used->second == 0) folder_->used_.erase(used);
}

}  // namespace quern
