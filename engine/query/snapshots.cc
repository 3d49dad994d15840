#include "engine/query/snapshots.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/name.h"
#include "engine/base/status_macros.h"
#include "engine/query/collection_record.h"
#include "engine/snapshot/snapshot_files.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr absl::string_view kItems = "/items";
constexpr absl::string_view kIndex = "/index";

absl::Status CopyIndex(const std::string& from, const std::string& to,
                       const RequestContext& context) {
  std::error_code ignored;
  if (!fs::is_directory(from + std::string(kIndex), ignored)) {
    return absl::OkStatus();
  }
  return CopyFolder(absl::StrCat(from, kIndex), absl::StrCat(to, kIndex),
                    Linked::kAll, context);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Snapshots>> Snapshots::Open(
    SnapshotFolderOptions folder, CollectionFactories factories,
    Catalog* catalog) {
  QUERN_ASSIGN_OR_RETURN(std::unique_ptr<SnapshotFolder> opened,
                         SnapshotFolder::Open(std::move(folder)));
  return absl::WrapUnique(
      new Snapshots(std::move(opened), std::move(factories), catalog));
}

Snapshots::Snapshots(std::unique_ptr<SnapshotFolder> folder,
                     CollectionFactories factories, Catalog* catalog)
    : folder_(std::move(folder)),
      factories_(std::move(factories)),
      catalog_(catalog) {}

absl::StatusOr<int64_t> Snapshots::CountItems(
    const std::string& directory, const v1::Collection& record) const {
  QUERN_ASSIGN_OR_RETURN(
      const std::unique_ptr<ItemStore> store,
      factories_.open_read_only(absl::StrCat(directory, kItems), record,
                                "a snapshot never changes"));
  return store->count();
}

absl::StatusOr<SnapshotInfo> Snapshots::Create(const RequestContext& context,
                                               const std::string& collection,
                                               const std::string& name) {
  QUERN_RETURN_IF_ERROR(catalog_->CheckWritable());
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> source,
                         catalog_->Get(collection));
  QUERN_ASSIGN_OR_RETURN(const std::unique_ptr<SnapshotFolder::Draft> draft,
                         folder_->Begin(collection, name));
  const std::string& directory = draft->directory();
  // The index first: it may be behind the items, which hold what it lacks, but
  // not before them.
  QUERN_RETURN_IF_ERROR(
      source->index().LinkFiles(context, absl::StrCat(directory, kIndex), [&] {
        return source->store().Checkpoint(absl::StrCat(directory, kItems));
      }));
  // As it is now: settings may have changed since it was opened.
  v1::Collection record = source->Describe();
  record.clear_status();
  QUERN_RETURN_IF_ERROR(WriteRecord(directory, record));
  // Writers went on: only the copy knows how many it has. That it can be opened
  // is worth knowing, too.
  QUERN_ASSIGN_OR_RETURN(const int64_t count, CountItems(directory, record));
  QUERN_ASSIGN_OR_RETURN(
      const SnapshotManifest manifest,
      draft->Describe(count, record.model_fingerprint(), context));
  QUERN_RETURN_IF_ERROR(context.Check("snapshot"));
  return draft->Commit(manifest);
}

absl::Status Snapshots::Delete(const std::string& collection,
                               const std::string& name) {
  QUERN_RETURN_IF_ERROR(catalog_->CheckWritable());
  return folder_->Delete(collection, name);
}

absl::StatusOr<v1::Collection> Snapshots::Restore(
    const RequestContext& context, const std::string& collection,
    const std::string& name, const std::string& new_collection) {
  QUERN_RETURN_IF_ERROR(catalog_->CheckWritable());
  QUERN_RETURN_IF_ERROR(
      CheckName(new_collection, "collection", "new_collection"));
  if (catalog_->Describe(new_collection).ok()) {
    return AlreadyExists("collection", new_collection);
  }
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<const SnapshotFolder::Use> use,
                         folder_->Open(collection, name));
  const std::string& from = use->directory();
  QUERN_RETURN_IF_ERROR(VerifyFiles(from, use->manifest(), context));
  QUERN_ASSIGN_OR_RETURN(v1::Collection record, ReadRecord(from));
  record.set_name(new_collection);
  QUERN_ASSIGN_OR_RETURN(
      const std::shared_ptr<Collection> restored,
      catalog_->Create(std::move(record), [&](const std::string& directory) {
        QUERN_RETURN_IF_ERROR(CopyIndex(from, directory, context));
        return CopyFolder(absl::StrCat(from, kItems),
                          absl::StrCat(directory, kItems), Linked::kSortedFiles,
                          context);
      }));
  return restored->Describe();
}

absl::StatusOr<std::unique_ptr<SnapshotExport>> Snapshots::Export(
    const std::string& collection, const std::string& name) const {
  QUERN_ASSIGN_OR_RETURN(std::shared_ptr<const SnapshotFolder::Use> use,
                         folder_->Open(collection, name));
  QUERN_ASSIGN_OR_RETURN(std::unique_ptr<ArchiveReader> reader,
                         ArchiveReader::Open(use->directory()));
  return std::make_unique<SnapshotExport>(std::move(use), std::move(reader));
}

absl::StatusOr<SnapshotInfo> Snapshots::Import(const RequestContext& context,
                                               const std::string& collection,
                                               const std::string& name,
                                               const ArchiveSource& source) {
  QUERN_RETURN_IF_ERROR(catalog_->CheckWritable());
  QUERN_ASSIGN_OR_RETURN(const std::unique_ptr<SnapshotFolder::Draft> draft,
                         folder_->Begin(collection, name));
  QUERN_ASSIGN_OR_RETURN(const SnapshotManifest manifest,
                         UnpackArchive(source, draft->directory(), context));
  const auto refused = [](const absl::Status& why) {
    return absl::InvalidArgumentError(
        absl::StrCat("the file is not an intact snapshot: ", why.message()));
  };
  const absl::StatusOr<v1::Collection> record = ReadRecord(draft->directory());
  if (absl::IsFailedPrecondition(record.status())) return record.status();
  if (!record.ok()) return refused(record.status());
  const absl::StatusOr<int64_t> count = CountItems(draft->directory(), *record);
  if (!count.ok()) return refused(count.status());
  if (*count != manifest.item_count) {
    return refused(absl::DataLossError(
        absl::StrCat("it has ", *count, " items, and says that it has ",
                     manifest.item_count)));
  }
  QUERN_RETURN_IF_ERROR(context.Check("import"));
  return draft->Commit(manifest);
}

}  // namespace quern
