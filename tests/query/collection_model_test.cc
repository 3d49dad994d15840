// Random operations on a collection, its index and its snapshots against an
// oracle in memory, with restarts and kills at random moments: nothing
// acknowledged may lack, nothing may be there that should not, and every
// payload, vector and time is as written, in a restored snapshot too.
//
// QUERN_CRASH_OPERATIONS sets how many operations; scripts/test --crash N does.
// QUERN_CRASH_SEED sets which.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/struct.pb.h"
#include "gtest/gtest.h"
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/index/sharded_index.h"
#include "engine/query/catalog.h"
#include "engine/query/collection.h"
#include "engine/query/snapshots.h"
#include "engine/store/rocksdb_item_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int64_t kDefaultOperations = 3000;
constexpr int kOperationsPerRound = 150;
constexpr double kKillProbability = 0.3;
constexpr int kDimension = 8;
constexpr int kIds = 150;
constexpr int kMaxBatch = 10;
constexpr int kShelves = 12;
constexpr absl::string_view kCollection = "model";
constexpr absl::string_view kChildFlag = "--run";

// One operation takes one second of the clock.
absl::Time TimeOf(int64_t number) {
  return absl::FromUnixSeconds(1'000'000'000 + number);
}

std::string PayloadOf(int64_t number, int shelf) {
  google::protobuf::Struct payload;
  auto& fields = *payload.mutable_fields();
  fields["shelf"].set_number_value(shelf);
  fields["number"].set_number_value(static_cast<double>(number));
  std::mt19937 random(number);
  fields["text"].set_string_value(std::string(random() % 2000, 'x'));
  // One field after another in one order: the bytes are compared.
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  payload.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

enum class Kind {
  kUpsert,
  kUpdate,
  kDelete,
  kDeleteMatching,
  kSweep,
  kRead,
  kSearch,
  kSnapshot,
  kRestore
};

// What an operation does follows from its number.
struct Operation {
  Kind kind = Kind::kRead;
  std::vector<int> ids;
  int shelf = 0;
  std::optional<absl::Duration> ttl;
  bool restart = false;  // The collection is opened again before.
};

Kind KindOf(int dice) {
  if (dice < 42) return Kind::kUpsert;
  if (dice < 56) return Kind::kUpdate;
  if (dice < 72) return Kind::kDelete;
  if (dice < 77) return Kind::kDeleteMatching;
  if (dice < 81) return Kind::kSweep;
  if (dice < 89) return Kind::kRead;
  if (dice < 97) return Kind::kSearch;
  return dice < 99 ? Kind::kSnapshot : Kind::kRestore;
}

int64_t NumberFromEnvironment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  int64_t number = otherwise;
  EXPECT_TRUE(text == nullptr || absl::SimpleAtoi(text, &number)) << text;
  return number;
}

Operation OperationOf(int64_t number) {
  static const int64_t seed =
      NumberFromEnvironment("QUERN_CRASH_SEED", 20260303);
  std::mt19937 random(number * 7919 + seed);
  const auto below = [&random](int n) {
    return static_cast<int>(random() % n);
  };
  Operation operation{.shelf = below(kShelves), .restart = below(60) == 0};
  operation.kind = KindOf(below(100));
  const int ids = operation.kind == Kind::kUpdate ? 1 : 1 + below(kMaxBatch);
  for (int i = 0; i < ids; ++i) operation.ids.push_back(below(kIds));
  if (below(4) == 0) operation.ttl = absl::Seconds(1 + below(120));
  return operation;
}

std::string IdOf(int id) { return absl::StrCat("item", id); }

std::vector<float> VectorOf(int64_t number, int64_t position) {
  std::mt19937 random(number * 31 + position);
  std::vector<float> vector(kDimension);
  for (float& value : vector) {
    value = static_cast<float>(random()) / 1e9F + 0.1F;
  }
  return vector;
}

Item MakeItem(const Operation& operation, int64_t number, size_t position) {
  Item item{.id = IdOf(operation.ids[position]),
            .payload = PayloadOf(number, operation.shelf),
            .embedding = VectorOf(number, static_cast<int64_t>(position)),
            .media_uri = absl::StrCat("file:///", number),
            .create_time = TimeOf(number),
            .update_time = TimeOf(number)};
  if (operation.ttl.has_value()) {
    item.expire_time = TimeOf(number) + *operation.ttl;
  }
  return item;
}

// What the oracle knows of an item: of which operations it is made. Plain, so
// that a child is given it as bytes. One that has expired may be in the index
// until it is swept.
struct Known {
  int64_t put = 0;  // 0: there is no such item.
  int64_t position = 0;
  int64_t created = 0;
  int64_t payload = 0;  // The last to write that.
  int64_t expires = 0;  // In seconds after TimeOf(0); 0: never.
  int64_t shelf = 0;

  bool ExistsAt(int64_t number) const {
    return put != 0 && !HasExpiredAt(number);
  }
  bool HasExpiredAt(int64_t number) const {
    return put != 0 && expires != 0 && expires <= number;
  }
};

Item ItemOf(int id, const Known& known) {
  Item item{.id = IdOf(id),
            .payload = PayloadOf(known.payload, static_cast<int>(known.shelf)),
            .embedding = VectorOf(known.put, known.position),
            .media_uri = absl::StrCat("file:///", known.put),
            .create_time = TimeOf(known.created),
            .update_time = TimeOf(known.payload)};
  if (known.expires != 0) item.expire_time = TimeOf(known.expires);
  return item;
}

using Items = std::map<std::string, Item>;

// The oracle.
class Oracle {
 public:
  using State = std::array<Known, kIds>;

  void Apply(int64_t number) {
    const Operation operation = OperationOf(number);
    switch (operation.kind) {
      case Kind::kUpsert:
        // Of equal ids the last one wins; what was there keeps its first time.
        return Upsert(operation, number);
      case Kind::kUpdate: {
        Known& known = items_[operation.ids.front()];
        if (!known.ExistsAt(number)) return;
        known.payload = number;
        known.shelf = operation.shelf;
        return;
      }
      case Kind::kDelete:
        for (const int id : operation.ids) items_[id] = {};
        return;
      case Kind::kDeleteMatching:
        for (Known& known : items_) {
          if (known.ExistsAt(number) && known.shelf == operation.shelf) {
            known = {};
          }
        }
        return;
      case Kind::kSweep:
        for (Known& known : items_) {
          if (known.HasExpiredAt(number)) known = {};
        }
        return;
      case Kind::kSnapshot:
        saved_ = items_;
        snapshot_ = number;
        return;
      case Kind::kRead:
      case Kind::kSearch:
      case Kind::kRestore:
        return;
    }
  }

  const State& items() const { return items_; }
  // Those of the last snapshot, and the operation that made it; 0: none did.
  const State& saved() const { return saved_; }
  int64_t snapshot() const { return snapshot_; }

 private:
  void Upsert(const Operation& operation, int64_t number) {
    std::map<int, size_t> last;
    for (size_t i = 0; i < operation.ids.size(); ++i) {
      last[operation.ids[i]] = i;
    }
    for (const auto& [id, position] : last) {
      const Known before = items_[id];
      items_[id] = {
          .put = number,
          .position = static_cast<int64_t>(position),
          .created = before.ExistsAt(number) ? before.created : number,
          .payload = number,
          .shelf = operation.shelf};
      if (operation.ttl.has_value()) {
        items_[id].expires = number + absl::ToInt64Seconds(*operation.ttl);
      }
    }
  }

  State items_{};
  State saved_{};
  int64_t snapshot_ = 0;
};
static_assert(std::is_trivially_copyable_v<Oracle>);

// What is to be found at a time, by list and by search.
struct Expected {
  Items items;
  Items expired;  // That a search of the index may find as well.
};

Expected At(const Oracle::State& state, int64_t number,
            std::optional<int> shelf = std::nullopt) {
  Expected expected;
  for (int id = 0; id < kIds; ++id) {
    const Known& known = state[id];
    if (shelf.has_value() && known.shelf != *shelf) continue;
    if (known.ExistsAt(number)) {
      expected.items.emplace(IdOf(id), ItemOf(id, known));
    } else if (known.HasExpiredAt(number)) {
      expected.expired.emplace(IdOf(id), ItemOf(id, known));
    }
  }
  return expected;
}

// Why two items differ; "" when they do not.
std::string Difference(const Item& actual, const Item& expected) {
  if (actual.payload != expected.payload) return "payload";
  if (actual.embedding != expected.embedding) return "embedding";
  if (actual.media_uri != expected.media_uri) return "media_uri";
  if (actual.create_time != expected.create_time) return "create_time";
  if (actual.update_time != expected.update_time) return "update_time";
  if (actual.expire_time != expected.expire_time) return "expire_time";
  return "";
}

double Cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double dot = 0;
  double a_square = 0;
  double b_square = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += double{a[i]} * b[i];
    a_square += double{a[i]} * a[i];
    b_square += double{b[i]} * b[i];
  }
  return dot / std::sqrt(a_square * b_square);
}

std::string TextOf(const absl::Status& status) {
  return status.ok() ? "" : status.ToString();
}

// A data folder with one collection and its snapshots, and its clock.
class Subject {
 public:
  Subject(std::string path, int64_t number)
      : path_(std::move(path)), clock_(TimeOf(number)) {
    Open();
  }

  // Does an operation; reads are compared with what the oracle says before it.
  // Returns what is wrong, "" for nothing.
  std::string Run(int64_t number, const Oracle& oracle) {
    clock_.Advance(TimeOf(number) - clock_.Now());
    const Operation operation = OperationOf(number);
    if (operation.restart) Open();
    switch (operation.kind) {
      case Kind::kUpsert: {
        std::vector<Item> items;
        for (size_t i = 0; i < operation.ids.size(); ++i) {
          items.push_back(MakeItem(operation, number, i));
        }
        return TextOf(collection_->Upsert(items).status());
      }
      case Kind::kUpdate:
        return Update(operation, number, oracle);
      case Kind::kDelete: {
        std::vector<std::string> ids;
        for (const int id : operation.ids) ids.push_back(IdOf(id));
        return TextOf(collection_->Delete(ids).status());
      }
      case Kind::kDeleteMatching:
        return DeleteMatching(operation, number, oracle);
      case Kind::kSweep: {
        absl::StatusOr<bool> more = true;
        while (more.ok() && *more) more = collection_->RemoveExpired();
        return TextOf(more.status());
      }
      case Kind::kRead:
        return Compare(At(oracle.items(), number), number);
      case Kind::kSearch:
        return CompareFiltered(operation, number, oracle);
      case Kind::kSnapshot:
        return MakeSnapshot(number, oracle);
      case Kind::kRestore:
        return Restore(number, oracle);
    }
    return "";
  }

  // Compares every item, by list and by search, with what should be there.
  std::string Compare(const Expected& expected, int64_t number) {
    clock_.Advance(TimeOf(number) - clock_.Now());
    return Compare(*collection_, expected);
  }

 private:
  void Open() {
    collection_ = nullptr;
    snapshots_ = nullptr;
    catalog_ = nullptr;
    catalog_ = ValueOrDie(Catalog::Open(
        {.path = path_, .factories = Factories(), .clock = &clock_}));
    snapshots_ = ValueOrDie(
        Snapshots::Open({.path = path_ + "/snapshots", .clock = &clock_},
                        Factories(), catalog_.get()));
    auto found = catalog_->Get(kCollection);
    if (absl::IsNotFound(found.status())) {
      v1::Collection record;
      record.set_name(std::string(kCollection));
      record.set_model("none");
      record.set_dimension(kDimension);
      v1::PayloadField& field = *record.add_payload_fields();
      field.set_path("shelf");
      field.set_type(v1::PayloadField::TYPE_NUMBER);
      found = catalog_->Create(record);
    }
    collection_ = ValueOrDie(std::move(found));
  }

  CollectionFactories Factories() {
    CollectionFactories factories;
    factories.open_store = [this](const std::string& path,
                                  const v1::Collection&)
        -> absl::StatusOr<std::unique_ptr<ItemStore>> {
      // Small buffers: flushes and compactions are among what is killed. A kill
      // loses nothing that was written; tests/store/crash_test syncs.
      return RocksdbItemStore::Open({.path = path,
                                     .dimension = kDimension,
                                     .sync = SyncMode::kNever,
                                     .write_buffer_bytes = 64 << 10,
                                     .clock = &clock_});
    };
    factories.open_read_only = [this](const std::string& path,
                                      const v1::Collection&,
                                      const std::string& reason)
        -> absl::StatusOr<std::unique_ptr<ItemStore>> {
      return RocksdbItemStore::Open({.path = path,
                                     .dimension = kDimension,
                                     .clock = &clock_,
                                     .read_only = reason});
    };
    factories.create_index =
        [this](
            const v1::Collection& record, const std::string& directory,
            ItemStore* store) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
      // Small too: segments are made, merged and saved all the time.
      return ShardedIndex::Create({.dimension = kDimension,
                                   .shards = 2,
                                   .fields = FieldsOf(record),
                                   .directory = directory,
                                   .oldest_sequence = store->trimmed_sequence(),
                                   .newest_sequence = store->last_sequence(),
                                   .saved =
                                       [store](uint64_t sequence) {
                                         (void)store->TrimChanges(sequence);
                                       },
                                   .background = background_,
                                   .seal_rows = 40});
    };
    return factories;
  }

  std::string Update(const Operation& operation, int64_t number,
                     const Oracle& oracle) {
    const int id = operation.ids.front();
    const absl::Status status =
        collection_
            ->Update(IdOf(id),
                     [&](Item& item) {
                       item.payload = PayloadOf(number, operation.shelf);
                       item.update_time = TimeOf(number);
                       return absl::OkStatus();
                     })
            .status();
    if (oracle.items()[id].ExistsAt(number)) return TextOf(status);
    return absl::IsNotFound(status)
               ? ""
               : absl::StrCat("an update of nothing: ", status.ToString());
  }

  absl::StatusOr<std::shared_ptr<const Filter>> OnShelf(int shelf) const {
    return ParseFilter(absl::StrCat("shelf = ", shelf),
                       collection_->settings()->fields);
  }

  std::string DeleteMatching(const Operation& operation, int64_t number,
                             const Oracle& oracle) {
    int64_t expected = 0;
    for (const Known& known : oracle.items()) {
      if (known.ExistsAt(number) && known.shelf == operation.shelf) ++expected;
    }
    const RequestContext context(&clock_, "test");
    const absl::StatusOr<int64_t> deleted = collection_->DeleteMatching(
        context, *ValueOrDie(OnShelf(operation.shelf)));
    if (!deleted.ok()) return TextOf(deleted.status());
    return *deleted == expected
               ? ""
               : absl::StrCat("deleted ", *deleted, " instead of ", expected);
  }

  std::string MakeSnapshot(int64_t number, const Oracle& oracle) {
    const RequestContext context(&clock_, "test");
    const std::string collection(kCollection);
    const absl::Status made =
        snapshots_->Create(context, collection, absl::StrCat("s", number))
            .status();
    // It may have been made before a kill; nothing was written since.
    if (!made.ok() && !absl::IsAlreadyExists(made)) return TextOf(made);
    if (oracle.snapshot() == 0) return "";
    const absl::Status gone =
        snapshots_->Delete(collection, absl::StrCat("s", oracle.snapshot()));
    return absl::IsNotFound(gone) ? "" : TextOf(gone);
  }

  std::string Restore(int64_t number, const Oracle& oracle) {
    if (oracle.snapshot() == 0) return "";
    const std::string copy = "copy";
    // What an earlier run may have left when it was killed.
    const absl::Status cleared = catalog_->Delete(copy).status();
    if (!cleared.ok() && !absl::IsNotFound(cleared)) return TextOf(cleared);
    const RequestContext context(&clock_, "test");
    const absl::Status status =
        snapshots_
            ->Restore(context, std::string(kCollection),
                      absl::StrCat("s", oracle.snapshot()), copy)
            .status();
    if (!status.ok()) return TextOf(status);
    const std::string wrong =
        Compare(*ValueOrDie(catalog_->Get(copy)), At(oracle.saved(), number));
    if (!wrong.empty()) return absl::StrCat("in the restored one, ", wrong);
    return TextOf(catalog_->Delete(copy).status());
  }

  std::string Compare(const Collection& collection, const Expected& expected) {
    const RequestContext context(&clock_, "test");
    Items found;
    const absl::Status status =
        collection.Scan(context, "", {.payload = true, .embedding = true},
                        nullptr, [&found](Item item) {
                          std::string id = item.id;
                          found.emplace(std::move(id), std::move(item));
                          return true;
                        });
    if (!status.ok()) return TextOf(status);
    for (const auto& [id, item] : expected.items) {
      const auto actual = found.find(id);
      if (actual == found.end()) return absl::StrCat(id, " lacks");
      const std::string difference = Difference(actual->second, item);
      if (!difference.empty())
        return absl::StrCat(id, " differs: ", difference);
    }
    for (const auto& [id, item] : found) {
      if (!expected.items.contains(id)) {
        return absl::StrCat(id, " is a phantom");
      }
    }
    const int64_t size = collection.index().size();
    const auto least = static_cast<int64_t>(expected.items.size());
    const auto expired = static_cast<int64_t>(expected.expired.size());
    if (size < least || size > least + expired) {
      return absl::StrCat("the index has ", size, " items instead of ", least,
                          " and at most ", expired, " that have expired");
    }
    return CompareSearch(collection, expected, nullptr, VectorOf(1, 0));
  }

  std::string CompareFiltered(const Operation& operation, int64_t number,
                              const Oracle& oracle) {
    return CompareSearch(
        *collection_, At(oracle.items(), number, operation.shelf),
        ValueOrDie(OnShelf(operation.shelf)), VectorOf(number, 0));
  }

  // A search for everything must find `expected`, in the order of its scores.
  std::string CompareSearch(const Collection& collection,
                            const Expected& expected,
                            std::shared_ptr<const Filter> filter,
                            const std::vector<float>& query) {
    const RequestContext context(&clock_, "test");
    const auto lists = collection.index().Search(
        context, {.data = query.data(), .rows = 1, .columns = kDimension},
        {.k = kIds, .filter = std::move(filter)});
    if (!lists.ok()) return TextOf(lists.status());
    size_t found = 0;
    for (const ScoredId& hit : lists->front()) {
      auto item = expected.items.find(hit.id);
      if (item != expected.items.end()) {
        ++found;
      } else {
        item = expected.expired.find(hit.id);
        if (item == expected.expired.end()) {
          return absl::StrCat("a search finds the phantom ", hit.id);
        }
      }
      const double score = Cosine(query, item->second.embedding);
      if (std::abs(score - hit.score) > 1e-5) {
        return absl::StrCat("a search scores ", hit.id, " ", hit.score,
                            " instead of ", score);
      }
    }
    if (found != expected.items.size()) {
      return absl::StrCat("a search finds ", found, " of ",
                          expected.items.size(), " items");
    }
    return std::is_sorted(lists->front().begin(), lists->front().end(),
                          [](const ScoredId& a, const ScoredId& b) {
                            return a.score > b.score;
                          })
               ? ""
               : "a search's hits are not in order";
  }

  const std::string path_;
  FakeClock clock_;
  const std::shared_ptr<ThreadPool> background_ = std::make_shared<ThreadPool>(
      ThreadPoolOptions{.name = "index", .threads = 1});
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Snapshots> snapshots_;
  std::shared_ptr<Collection> collection_;
};

// What a child begins with.
std::string OraclePath(const std::string& path) { return path + ".oracle"; }

// The child: the operations from `first` to `last`, each acknowledged by a
// byte.
int RunChild(const std::string& path, int64_t first, int64_t last) {
  Oracle oracle;
  const std::string bytes = ValueOrDie(ReadFile(OraclePath(path)));
  if (bytes.size() != sizeof(oracle)) return 1;
  std::memcpy(&oracle, bytes.data(), sizeof(oracle));
  Subject subject(path, first);
  for (int64_t number = first; number <= last; ++number) {
    const std::string wrong = subject.Run(number, oracle);
    if (!wrong.empty()) {
      std::cerr << "operation " << number << ": " << wrong << "\n";
      return 1;
    }
    oracle.Apply(number);
    if (::write(STDOUT_FILENO, "+", 1) != 1) return 1;
  }
  return 0;
}

class ModelTest : public testing::Test {
 protected:
  // Runs a child over the operations after `done_`, killed after `delay` if
  // there is one, and counts what it acknowledges. The delay begins with the
  // child, or `once_working`, with its first acknowledgement.
  void RunRound(int64_t last, std::optional<absl::Duration> delay,
                bool once_working) {
    ASSERT_THAT(WriteFileAtomically(
                    OraclePath(path_),
                    {reinterpret_cast<const char*>(&oracle_), sizeof(oracle_)}),
                IsOk());
    std::array<int, 2> ends;
    ASSERT_EQ(::pipe(ends.data()), 0);
    const pid_t child = Spawn(ends, done_ + 1, last);
    ::close(ends[1]);
    absl::Time end = absl::Now() + delay.value_or(absl::ZeroDuration());
    bool killed = false;
    std::array<char, 256> bytes;
    while (true) {
      pollfd readable = {.fd = ends[0], .events = POLLIN, .revents = 0};
      const int64_t wait_ms =
          std::max<int64_t>(0, absl::ToInt64Milliseconds(end - absl::Now()));
      if (delay.has_value() && !killed && !once_working &&
          ::poll(&readable, 1, static_cast<int>(wait_ms)) == 0) {
        ::kill(child, SIGKILL);
        killed = true;
      }
      const ssize_t read = ::read(ends[0], bytes.data(), bytes.size());
      if (read <= 0) break;
      done_ += read;
      if (!once_working) continue;
      once_working = false;
      end = absl::Now() + delay.value_or(absl::ZeroDuration());
    }
    ::close(ends[0]);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) ||
                (WIFEXITED(status) && WEXITSTATUS(status) == 0));
  }

  // The operation that was cut off may have been done, as a whole.
  void CheckCollection() {
    while (applied_ < done_) oracle_.Apply(++applied_);
    Subject subject(path_, done_ + 1);
    const int64_t now = done_ + 1;
    const std::string without = subject.Compare(At(oracle_.items(), now), now);
    if (without.empty()) return;
    oracle_.Apply(++applied_);
    done_ = applied_;
    const std::string with = subject.Compare(At(oracle_.items(), now), now);
    EXPECT_EQ(with, "") << "after operation " << done_
                        << "; before it: " << without;
  }

  int64_t done_ = 0;

 private:
  pid_t Spawn(const std::array<int, 2>& ends, int64_t first,
              int64_t last) const {
    std::string program = "/proc/self/exe";
    std::string flag(kChildFlag);
    std::string path = path_;
    std::string from = absl::StrCat(first);
    std::string to = absl::StrCat(last);
    std::array<char*, 6> arguments = {program.data(), flag.data(), path.data(),
                                      from.data(),    to.data(),   nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    pid_t child = -1;
    EXPECT_EQ(::posix_spawn(&child, program.c_str(), &actions, nullptr,
                            arguments.data(), environ),
              0);
    posix_spawn_file_actions_destroy(&actions);
    return child;
  }

  TemporaryDirectory directory_;
  const std::string path_ = directory_.File("data");
  Oracle oracle_;
  int64_t applied_ = 0;
};

TEST_F(ModelTest, TheCollectionIsWhatTheOracleSaysWheneverItIsKilled) {
  const int64_t operations =
      NumberFromEnvironment("QUERN_CRASH_OPERATIONS", kDefaultOperations);
  std::mt19937 random(20260404);
  int kills = 0;
  while (done_ < operations) {
    SCOPED_TRACE(absl::StrCat("from operation ", done_ + 1));
    std::optional<absl::Duration> delay;
    const bool once_working = random() % 4 != 0;
    if (std::bernoulli_distribution(kKillProbability)(random)) {
      delay = absl::Milliseconds(random() % 200);
      ++kills;
    }
    RunRound(std::min(operations, done_ + kOperationsPerRound), delay,
             once_working);
    if (HasFailure()) return;
    CheckCollection();
    if (HasFailure()) return;
  }
  EXPECT_GT(kills, 0);
  std::cout << done_ << " operations, " << kills << " kills\n";
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  if (argc == 5 && argv[1] == quern::kChildFlag) {
    int64_t first = 0;
    int64_t last = 0;
    if (!absl::SimpleAtoi(argv[3], &first) ||
        !absl::SimpleAtoi(argv[4], &last)) {
      return 1;
    }
    return quern::RunChild(argv[2], first, last);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
