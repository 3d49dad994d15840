#include "engine/query/catalog.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/time_util.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr absl::string_view kRecordFile = "collection.json";
constexpr size_t kMaxNameBytes = 63;

std::string CollectionsPath(const std::string& data_path) {
  return absl::StrCat(data_path, "/collections");
}

std::string RecordPath(const std::string& directory) {
  return absl::StrCat(directory, "/", kRecordFile);
}

// Unlike a name it is never used twice, so that a new collection cannot meet
// the files of a deleted one of the same name.
std::string NewUid() {
  absl::BitGen random;
  return absl::StrFormat("%016x", absl::Uniform<uint64_t>(random));
}

absl::StatusOr<v1::Collection> ReadRecord(const std::string& path) {
  QUERN_ASSIGN_OR_RETURN(const std::string json, ReadFile(path));
  v1::Collection record;
  const auto status =
      google::protobuf::util::JsonStringToMessage(json, &record);
  if (!status.ok()) {
    return absl::DataLossError(
        absl::StrCat(path, " is damaged: ", std::string(status.message())));
  }
  return record;
}

absl::Status WriteRecord(const std::string& path,
                         const v1::Collection& record) {
  google::protobuf::util::JsonPrintOptions print;
  print.add_whitespace = true;
  std::string json;
  const auto status =
      google::protobuf::util::MessageToJsonString(record, &json, print);
  if (!status.ok()) {
    return absl::InternalError(std::string(status.message()));
  }
  return WriteFileAtomically(path, json);
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

}  // namespace

absl::Status CheckCollectionName(absl::string_view name) {
  const auto is_inner = [](char c) {
    return absl::ascii_isdigit(c) || absl::ascii_islower(c) || c == '_' ||
           c == '-';
  };
  const bool good = !name.empty() && name.size() <= kMaxNameBytes &&
                    name[0] != '_' && name[0] != '-' &&
                    std::all_of(name.begin(), name.end(), is_inner);
  if (good) return absl::OkStatus();
  return InvalidField(
      "name", absl::StrCat(Quoted(name), " is not a collection's name: 1 to ",
                           kMaxNameBytes,
                           " of a-z, 0-9, - and _, beginning with a letter or "
                           "a digit"));
}

absl::StatusOr<std::unique_ptr<Catalog>> Catalog::Open(CatalogOptions options) {
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

absl::Status Catalog::LoadAll() {
  QUERN_ASSIGN_OR_RETURN(const std::vector<std::string> directories,
                         Subdirectories(CollectionsPath(options_.path)));
  for (const std::string& directory : directories) {
    absl::StatusOr<v1::Collection> record = ReadRecord(RecordPath(directory));
    if (absl::IsNotFound(record.status())) {
      RemoveDirectory(directory);
      continue;
    }
    QUERN_RETURN_IF_ERROR(record.status());
    std::string name = record->name();
    Entry entry = LoadEntry(directory, *std::move(record));
    absl::MutexLock lock(&mutex_);
    entries_.emplace(std::move(name), std::move(entry));
  }
  return absl::OkStatus();
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

absl::StatusOr<std::shared_ptr<Collection>> Catalog::Create(
    v1::Collection record) {
  QUERN_RETURN_IF_ERROR(CheckCollectionName(record.name()));
  absl::MutexLock create_lock(&create_mutex_);
  {
    absl::MutexLock lock(&mutex_);
    if (entries_.contains(record.name())) {
      return AlreadyExists("collection", record.name());
    }
    if (static_cast<int64_t>(entries_.size()) >= options_.max_collections) {
      return absl::ResourceExhaustedError(
          absl::StrCat("there are ", entries_.size(),
                       " collections; limits.max_collections is ",
                       options_.max_collections));
    }
  }
  *record.mutable_create_time() =
      google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
          absl::ToUnixNanos(options_.clock->Now()));
  const std::string directory =
      absl::StrCat(CollectionsPath(options_.path), "/", NewUid());
  absl::Status status = EnsureDirectory(directory);
  Entry entry;
  if (status.ok()) {
    entry = LoadEntry(directory, record);
    status = entry.error;
  }
  // From here on the collection exists.
  if (status.ok()) status = WriteRecord(RecordPath(directory), record);
  if (!status.ok()) {
    entry.collection.reset();
    RemoveDirectory(directory);
    return status;
  }
  std::shared_ptr<Collection> collection = entry.collection;
  absl::MutexLock lock(&mutex_);
  entries_.emplace(record.name(), std::move(entry));
  return collection;
}

absl::StatusOr<std::shared_ptr<Collection>> Catalog::Get(
    absl::string_view name) const {
  absl::MutexLock lock(&mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return NotFound("collection", name);
  if (it->second.collection == nullptr) return it->second.error;
  return it->second.collection;
}

v1::Collection Catalog::DescribeEntry(const Entry& entry) {
  if (entry.collection != nullptr) return entry.collection->Describe();
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
  absl::MutexLock create_lock(&create_mutex_);
  Entry entry;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = entries_.find(name);
    if (it == entries_.end()) return NotFound("collection", name);
    entry = it->second;
  }
  // Without its record the collection is gone, whatever happens to the rest.
  QUERN_RETURN_IF_ERROR(RemoveFileDurably(RecordPath(entry.directory)));
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
