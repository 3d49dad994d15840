#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "engine/base/request_context.h"
#include "engine/query/catalog.h"
#include "engine/query/collection.h"
#include "engine/snapshot/archive.h"
#include "engine/snapshot/snapshot_folder.h"

namespace quern {

// A snapshot on its way out as a tar. It cannot be deleted meanwhile. Not
// thread-safe.
class SnapshotExport {
 public:
  SnapshotExport(std::shared_ptr<const SnapshotFolder::Use> use,
                 std::unique_ptr<ArchiveReader> reader)
      : use_(std::move(use)), reader_(std::move(reader)) {}

  // As ArchiveReader::Next().
  absl::StatusOr<std::optional<std::string>> Next() { return reader_->Next(); }

 private:
  const std::shared_ptr<const SnapshotFolder::Use> use_;
  const std::unique_ptr<ArchiveReader> reader_;
};

// Snapshots of the catalog's collections. A call that fails, or whose context
// is cancelled, leaves nothing behind. Calls take as long as the files are
// large: none belongs on a thread that serves requests. Thread-safe.
class Snapshots {
 public:
  // Both must outlive it. Errors: those of SnapshotFolder::Open().
  static absl::StatusOr<std::unique_ptr<Snapshots>> Open(
      SnapshotFolderOptions folder, CollectionFactories factories,
      Catalog* catalog);

  // A copy of the collection as of one moment: whatever was acknowledged before
  // the call is in it. Errors: kNotFound, kAlreadyExists, kInvalidArgument on
  // "collection" or "name", kResourceExhausted (the disk is full),
  // kFailedPrecondition on a replica.
  absl::StatusOr<SnapshotInfo> Create(const RequestContext& context,
                                      const std::string& collection,
                                      const std::string& name);

  // As SnapshotFolder::List().
  absl::StatusOr<std::vector<SnapshotInfo>> List(
      const std::string& collection) const {
    return folder_->List(collection);
  }

  // As SnapshotFolder::Delete().
  absl::Status Delete(const std::string& collection, const std::string& name);

  // Makes a new collection of a snapshot, after all of its files were verified.
  // The model need not be loaded. Errors: kNotFound, kAlreadyExists (the new
  // collection), kInvalidArgument on "new_collection", kDataLoss naming the
  // damaged file, and as Create().
  absl::StatusOr<v1::Collection> Restore(const RequestContext& context,
                                         const std::string& collection,
                                         const std::string& name,
                                         const std::string& new_collection);

  // Errors: kNotFound, kDataLoss.
  absl::StatusOr<std::unique_ptr<SnapshotExport>> Export(
      const std::string& collection, const std::string& name) const;

  // Takes a tar that Export() made. The collection need not exist. Errors: as
  // UnpackArchive() and Create().
  absl::StatusOr<SnapshotInfo> Import(const RequestContext& context,
                                      const std::string& collection,
                                      const std::string& name,
                                      const ArchiveSource& source);

 private:
  Snapshots(std::unique_ptr<SnapshotFolder> folder,
            CollectionFactories factories, Catalog* catalog);

  // Items of a store that lies in a snapshot.
  absl::StatusOr<int64_t> CountItems(const std::string& directory,
                                     const v1::Collection& record) const;

  const std::unique_ptr<SnapshotFolder> folder_;
  const CollectionFactories factories_;
  Catalog* const catalog_;
};

}  // namespace quern
