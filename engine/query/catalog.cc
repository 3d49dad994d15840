#include "engine/query/catalog.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/util/message_differencer.h"
#include "google/protobuf/util/time_util.h"

#include "engine/base/error.h"
#include "engine/base/name.h"
#include "engine/base/status_macros.h"
#include "engine/query/collection_record.h"
#include "engine/query/collection_settings.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

std::string CollectionsPath(const std::string& data_path) {
  return absl::StrCat(data_path, "/collections");
}

// Unlike a name it is never used twice, so that a new collection cannot meet
// the files of a deleted one of the same name.
std::string NewUid() {
  absl::BitGen random;
  return absl::StrFormat("%016x", absl::Uniform<uint64_t>(random));
}

void RemoveDirectory(const std::string& directory) {
  std::error_code ignored;  // Tried again when the catalog is opened next.
  fs::remove_all(directory, ignored);
}

absl::StatusOr<std::vector<std::string>> Subdirectories(
    const std::string& path) {
  std::vector<std::string> directories;
  std::error_code error;
  fs::directory_iterator it(path, error);
  while (!error && it != fs::directory_iterator()) {
    if (it->is_directory(error) && !error) {
      directories.push_back(it->path().string());
    }
    it.increment(error);
  }
  if (error) {
    return absl::InternalError(
        absl::StrCat("cannot list ", path, ": ", error.message()));
  }
  return directories;
}

// The file that names the folder of the collection that this one replaces.
std::string ReplacesPath(const std::string& directory) {
  return absl::StrCat(directory, "/replaces");
}

// Ends the replacements that a crash left half done. Folders of which that
// cannot be done now come first in `directories`: of their collections they
// are the ones that count.
void FinishReplacements(std::vector<std::string>& directories) {
  const auto is_pending = [&](const std::string& directory) {
    const absl::StatusOr<std::string> replaced =
        ReadFile(ReplacesPath(directory));
    if (absl::IsNotFound(replaced.status())) return false;
    const absl::Status record = ReadRecord(directory).status();
    // Without a record it has replaced nothing.
    if (absl::IsNotFound(record)) return false;
    if (!record.ok() || !replaced.ok()) return true;
    const std::string old_directory = absl::StrCat(
        fs::path(directory).parent_path().string(), "/", *replaced);
    // Whatever else it says, damaged, is not to be removed.
    if (!replaced->empty() && old_directory != directory &&
        absl::c_linear_search(directories, old_directory)) {
      const absl::Status removed = RemoveFileDurably(RecordPath(old_directory));
      if (!removed.ok() && !absl::IsNotFound(removed)) return true;
      RemoveDirectory(old_directory);
    }
    return !RemoveFileDurably(ReplacesPath(directory)).ok();
  };
  std::vector<std::string> pending;
  std::vector<std::string> others;
  for (const std::string& directory : directories) {
    (is_pending(directory) ? pending : others).push_back(directory);
  }
  pending.insert(pending.end(), others.begin(), others.end());
  directories = std::move(pending);
}

}  // namespace

absl::Status CheckCollectionName(absl::string_view name) {
  return CheckName(name, "collection");
}

absl::StatusOr<std::unique_ptr<Catalog>> Catalog::Open(CatalogOptions options) {
  if (!options.replica_of.empty()) {
    return std::unique_ptr<Catalog>(new Catalog(std::move(options), nullptr));
  }
  QUERN_RETURN_IF_ERROR(EnsureDirectory(options.path));
  QUERN_ASSIGN_OR_RETURN(std::unique_ptr<DirectoryLock> lock,
                         DirectoryLock::Acquire(options.path));
  QUERN_RETURN_IF_ERROR(EnsureDirectory(CollectionsPath(options.path)));
  std::unique_ptr<Catalog> catalog(
      new Catalog(std::move(options), std::move(lock)));
  QUERN_RETURN_IF_ERROR(catalog->LoadAll());
  return catalog;
}

Catalog::Catalog(CatalogOptions options, std::unique_ptr<DirectoryLock> lock)
    : options_(std::move(options)), lock_(std::move(lock)) {}

std::string ReplicaReason(absl::string_view replica_of) {
  return absl::StrCat(
      "this server is a read-only replica (storage.replica_of "
      "is ",
      replica_of, "): write to the server that makes the snapshots there");
}

absl::Status Catalog::CheckWritable() const {
  if (options_.replica_of.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(ReplicaReason(options_.replica_of));
}

void Catalog::Put(std::shared_ptr<Collection> collection, std::string origin) {
  Entry entry{.record = collection->record(),
              .collection = std::move(collection),
              .origin = std::move(origin)};
  std::string name = entry.record.name();
  // The old one ends with `entry`, unless somebody still searches it.
  absl::MutexLock lock(&mutex_);
  std::swap(entries_[std::move(name)], entry);
}

absl::Status Catalog::LoadAll() {
  QUERN_ASSIGN_OR_RETURN(std::vector<std::string> directories,
                         Subdirectories(CollectionsPath(options_.path)));
  FinishReplacements(directories);
  for (const std::string& directory : directories) LoadFolder(directory);
  return absl::OkStatus();
}

void Catalog::LoadFolder(const std::string& directory) {
  absl::StatusOr<v1::Collection> record = ReadRecord(directory);
  if (absl::IsNotFound(record.status())) return RemoveDirectory(directory);
  if (record.ok() && !CheckCollectionName(record->name()).ok()) {
    record = absl::DataLossError(absl::StrCat(RecordPath(directory),
                                              " is damaged: its name is ",
                                              Quoted(record->name())));
  }
  if (!record.ok()) {
    absl::MutexLock lock(&mutex_);
    return KeepFailed(directory, NameInRecord(directory), record.status());
  }
  std::string name = record->name();
  {
    absl::MutexLock lock(&mutex_);
    if (const auto same = entries_.find(name); same != entries_.end()) {
      return KeepFailed(
          directory, "",
          absl::FailedPreconditionError(absl::StrCat(
              "the folders ", directory, " and ", same->second.directory,
              " both have the collection ", Quoted(name))));
    }
  }
  Entry entry = LoadEntry(directory, *std::move(record));
  absl::MutexLock lock(&mutex_);
  entries_.emplace(std::move(name), std::move(entry));
}

void Catalog::KeepFailed(const std::string& directory, std::string name,
                         absl::Status error) {
  if (!CheckCollectionName(name).ok() || entries_.contains(name)) {
    name = fs::path(directory).filename().string();
  }
  Entry entry{.directory = directory, .error = std::move(error)};
  entry.record.set_name(name);
  entries_.emplace(std::move(name), std::move(entry));
}

Catalog::Entry Catalog::LoadEntry(const std::string& directory,
                                  v1::Collection record) const {
  Entry entry{.directory = directory, .record = record};
  absl::StatusOr<std::unique_ptr<Collection>> collection =
      Collection::Open(directory, std::move(record), options_.factories);
  if (collection.ok()) {
    entry.collection = *std::move(collection);
  } else {
    entry.error =
        Annotate(collection.status(),
                 absl::StrCat("collection ", Quoted(entry.record.name()),
                              " cannot be opened"));
  }
  return entry;
}

absl::Status Catalog::CheckFree(const std::string& name) const {
  absl::MutexLock lock(&mutex_);
  if (entries_.contains(name)) return AlreadyExists("collection", name);
  if (static_cast<int64_t>(entries_.size()) >= options_.max_collections) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "there are ", entries_.size(),
        " collections; limits.max_collections is ", options_.max_collections));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Collection>> Catalog::Create(
    v1::Collection record, const Fill& fill) {
  QUERN_RETURN_IF_ERROR(CheckWritable());
  QUERN_RETURN_IF_ERROR(CheckCollectionName(record.name()));
  QUERN_RETURN_IF_ERROR(CheckFree(record.name()));
  *record.mutable_create_time() =
      google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
          absl::ToUnixNanos(options_.clock->Now()));
  const std::string directory =
      absl::StrCat(CollectionsPath(options_.path), "/", NewUid());
  absl::Status status = EnsureDirectory(directory);
  if (status.ok() && fill != nullptr) status = fill(directory);
  Entry entry;
  if (status.ok()) {
    entry = LoadEntry(directory, std::move(record));
    status = entry.error;
  }
  if (status.ok()) status = Publish(entry);
  if (status.ok()) return entry.collection;
  entry.collection.reset();
  RemoveDirectory(directory);
  return status;
}

absl::Status Catalog::Publish(const Entry& entry) {
  absl::MutexLock create_lock(&create_mutex_);
  // Once more: filling and opening took their time.
  QUERN_RETURN_IF_ERROR(CheckFree(entry.record.name()));
  // From here on the collection exists.
  QUERN_RETURN_IF_ERROR(WriteRecord(entry.directory, entry.record));
  absl::MutexLock lock(&mutex_);
  entries_.emplace(entry.record.name(), entry);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Collection>> Catalog::CreateShadow(
    v1::Collection record) const {
  QUERN_RETURN_IF_ERROR(CheckWritable());
  const std::string directory =
      absl::StrCat(CollectionsPath(options_.path), "/", NewUid());
  QUERN_RETURN_IF_ERROR(EnsureDirectory(directory));
  const Entry entry = LoadEntry(directory, std::move(record));
  if (!entry.error.ok()) RemoveDirectory(directory);
  QUERN_RETURN_IF_ERROR(entry.error);
  return entry.collection;
}

absl::Status Catalog::Replace(const std::shared_ptr<Collection>& collection,
                              const std::shared_ptr<Collection>& shadow,
                              const std::function<absl::Status()>& last) {
  absl::MutexLock create_lock(&create_mutex_);
  Entry entry;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = entries_.find(collection->name());
    if (it == entries_.end() || it->second.collection != collection) {
      return NotFound("collection", collection->name());
    }
    entry = it->second;
  }
  const v1::Collection& made = shadow->record();
  const auto same = [&](const google::protobuf::Message& now,
                        const google::protobuf::Message& then) {
    return google::protobuf::util::MessageDifferencer::Equals(now, then);
  };
  bool is_same =
      same(entry.record.index(), made.index()) &&
      entry.record.payload_fields_size() == made.payload_fields_size();
  for (int i = 0; is_same && i < made.payload_fields_size(); ++i) {
    is_same = same(entry.record.payload_fields(i), made.payload_fields(i));
  }
  if (!is_same) {
    return absl::AbortedError(absl::StrCat(
        "`index` or `payload_fields` of collection ", Quoted(made.name()),
        " were changed meanwhile: ask again"));
  }
  const std::string old_directory =
      std::exchange(entry.directory, shadow->directory());
  entry.record.set_model(made.model());
  entry.record.set_model_fingerprint(made.model_fingerprint());
  entry.record.set_dimension(made.dimension());
  entry.collection = shadow;
  QUERN_ASSIGN_OR_RETURN(CollectionSettings settings, SettingsOf(entry.record));
  shadow->set_settings(std::move(settings));
  return collection->ReplaceBy(shadow, [&]() -> absl::Status {
    QUERN_RETURN_IF_ERROR(last());
    return PublishInPlaceOf(old_directory, entry);
  });
}

absl::Status Catalog::PublishInPlaceOf(const std::string& old_directory,
                                       const Entry& entry) {
  const std::string replaces = ReplacesPath(entry.directory);
  QUERN_RETURN_IF_ERROR(WriteFileAtomically(
      replaces, fs::path(old_directory).filename().string()));
  // From here on the new one counts.
  if (const absl::Status status = WriteRecord(entry.directory, entry.record);
      !status.ok()) {
    const absl::Status ignored = RemoveFileDurably(RecordPath(entry.directory));
    return status;
  }
  {
    absl::MutexLock lock(&mutex_);
    entries_.insert_or_assign(entry.record.name(), entry);
  }
  // Where this fails, the next start does it.
  if (RemoveFileDurably(RecordPath(old_directory)).ok()) {
    const absl::Status ignored = RemoveFileDurably(replaces);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Collection>> Catalog::Get(
    absl::string_view name) const {
  absl::MutexLock lock(&mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return NotFound("collection", name);
  if (it->second.collection == nullptr) return it->second.error;
  return it->second.collection;
}

absl::StatusOr<v1::Collection> Catalog::Update(
    absl::string_view name,
    const std::function<absl::Status(v1::Collection&)>& change) {
  QUERN_RETURN_IF_ERROR(CheckWritable());
  absl::MutexLock create_lock(&create_mutex_);
  QUERN_ASSIGN_OR_RETURN(const std::shared_ptr<Collection> collection,
                         Get(name));
  Entry entry;
  {
    absl::MutexLock lock(&mutex_);
    entry = entries_.find(name)->second;
  }
  QUERN_RETURN_IF_ERROR(change(entry.record));
  QUERN_ASSIGN_OR_RETURN(CollectionSettings settings, SettingsOf(entry.record));
  QUERN_RETURN_IF_ERROR(WriteRecord(entry.directory, entry.record));
  collection->set_settings(std::move(settings));
  absl::MutexLock lock(&mutex_);
  entries_.find(name)->second.record = std::move(entry.record);
  return collection->Describe();
}

std::vector<std::shared_ptr<Collection>> Catalog::Opened() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Collection>> opened;
  for (const auto& [name, entry] : entries_) {
    if (entry.collection != nullptr) opened.push_back(entry.collection);
  }
  return opened;
}

v1::Collection Catalog::DescribeEntry(const Entry& entry) {
  if (entry.collection != nullptr) {
    v1::Collection described = entry.collection->Describe();
    if (!entry.origin.empty()) {
      described.mutable_status()->set_state(
          v1::CollectionStatus::STATE_READ_ONLY);
      described.mutable_status()->set_message(entry.origin);
    }
    return described;
  }
  v1::Collection described = entry.record;
  described.mutable_status()->set_state(v1::CollectionStatus::STATE_FAILED);
  described.mutable_status()->set_message(std::string(entry.error.message()));
  return described;
}

absl::StatusOr<v1::Collection> Catalog::Describe(absl::string_view name) const {
  std::vector<Entry> found;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = entries_.find(name);
    if (it == entries_.end()) return NotFound("collection", name);
    found.push_back(it->second);
  }
  return DescribeEntry(found.front());
}

std::vector<v1::Collection> Catalog::List(absl::string_view after_name,
                                          int64_t limit) const {
  std::vector<Entry> page;
  {
    absl::MutexLock lock(&mutex_);
    for (auto it = entries_.upper_bound(after_name);
         it != entries_.end() && static_cast<int64_t>(page.size()) < limit;
         ++it) {
      page.push_back(it->second);
    }
  }
  std::vector<v1::Collection> described;
  described.reserve(page.size());
  for (const Entry& entry : page) described.push_back(DescribeEntry(entry));
  return described;
}

absl::StatusOr<int64_t> Catalog::Delete(absl::string_view name) {
  QUERN_RETURN_IF_ERROR(CheckWritable());
  absl::MutexLock create_lock(&create_mutex_);
  Entry entry;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = entries_.find(name);
    if (it == entries_.end()) return NotFound("collection", name);
    entry = it->second;
  }
  // Without its record the collection is gone, whatever happens to the rest.
  if (absl::Status removed = RemoveFileDurably(RecordPath(entry.directory));
      !removed.ok()) {
    // Who goes on writing must find it at the next start.
    std::error_code ignored;
    if (entry.collection != nullptr &&
        !fs::exists(RecordPath(entry.directory), ignored)) {
      removed.Update(WriteRecord(entry.directory, entry.record));
    }
    return removed;
  }
  {
    absl::MutexLock lock(&mutex_);
    entries_.erase(entries_.find(name));
  }
  if (entry.collection == nullptr) {
    RemoveDirectory(entry.directory);
    return 0;
  }
  entry.collection->Drop();
  return entry.collection->index().size();
}

}  // namespace quern
