// Random operations on a collection against an oracle in memory, with restarts
// and kills at random moments: nothing acknowledged may lack, nothing may be
// there that should not, and every payload, vector and time is as written.
//
// QUERN_CRASH_OPERATIONS sets how many operations; scripts/test --crash N does.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
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

#include "engine/query/collection.h"
#include "engine/store/rocksdb_item_store.h"
#include "tests/support/fake_vector_index.h"
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

enum class Kind { kUpsert, kUpdate, kDelete, kDeleteMatching, kSweep, kRead };

// What an operation does follows from its number.
struct Operation {
  Kind kind = Kind::kRead;
  std::vector<std::string> ids;
  int shelf = 0;
  std::optional<absl::Duration> ttl;
  bool restart = false;  // The collection is opened again before.
};

Operation OperationOf(int64_t number) {
  std::mt19937 random(number * 7919 + 20260303);
  const auto below = [&random](int n) {
    return static_cast<int>(random() % n);
  };
  Operation operation{.shelf = below(kShelves), .restart = below(60) == 0};
  const int dice = below(100);
  operation.kind = dice < 45   ? Kind::kUpsert
                   : dice < 60 ? Kind::kUpdate
                   : dice < 78 ? Kind::kDelete
                   : dice < 83 ? Kind::kDeleteMatching
                   : dice < 88 ? Kind::kSweep
                               : Kind::kRead;
  const int ids = operation.kind == Kind::kUpdate ? 1 : 1 + below(kMaxBatch);
  for (int i = 0; i < ids; ++i) {
    operation.ids.push_back(absl::StrCat("item", below(kIds)));
  }
  if (below(4) == 0) operation.ttl = absl::Seconds(1 + below(120));
  return operation;
}

Item MakeItem(const Operation& operation, int64_t number, size_t position) {
  std::mt19937 random(number * 31 + position);
  Item item{.id = operation.ids[position],
            .payload = PayloadOf(number, operation.shelf),
            .embedding = std::vector<float>(kDimension),
            .media_uri = absl::StrCat("file:///", number),
            .create_time = TimeOf(number),
            .update_time = TimeOf(number)};
  for (float& value : item.embedding) {
    value = static_cast<float>(random()) / 1e9F + 0.1F;
  }
  if (operation.ttl.has_value()) {
    item.expire_time = TimeOf(number) + *operation.ttl;
  }
  return item;
}

// The oracle.
class Oracle {
 public:
  void Apply(int64_t number) {
    const Operation operation = OperationOf(number);
    std::erase_if(items_, [number](const auto& entry) {
      return entry.second.expire_time.has_value() &&
             *entry.second.expire_time <= TimeOf(number);
    });
    switch (operation.kind) {
      case Kind::kUpsert:
        return Upsert(operation, number);
      case Kind::kUpdate: {
        const auto found = items_.find(operation.ids.front());
        if (found == items_.end()) return;
        found->second.payload = PayloadOf(number, operation.shelf);
        found->second.update_time = TimeOf(number);
        shelves_[found->first] = operation.shelf;
        return;
      }
      case Kind::kDelete:
        for (const std::string& id : operation.ids) items_.erase(id);
        return;
      case Kind::kDeleteMatching:
        std::erase_if(items_, [&](const auto& entry) {
          return shelves_[entry.first] == operation.shelf;
        });
        return;
      case Kind::kSweep:
      case Kind::kRead:
        return;
    }
  }

  // What is visible at a time.
  std::map<std::string, Item> At(absl::Time time) const {
    std::map<std::string, Item> visible;
    for (const auto& [id, item] : items_) {
      if (!item.expire_time.has_value() || *item.expire_time > time) {
        visible.emplace(id, item);
      }
    }
    return visible;
  }

  int shelf(const std::string& id) const { return shelves_.at(id); }

 private:
  void Upsert(const Operation& operation, int64_t number) {
    // Of equal ids the last one wins; what was there keeps its first time.
    std::map<std::string, Item> last;
    for (size_t i = 0; i < operation.ids.size(); ++i) {
      last[operation.ids[i]] = MakeItem(operation, number, i);
    }
    for (auto& [id, item] : last) {
      const auto known = items_.find(id);
      if (known != items_.end()) item.create_time = known->second.create_time;
      items_[id] = std::move(item);
      shelves_[id] = operation.shelf;
    }
  }

  std::map<std::string, Item> items_;
  std::map<std::string, int> shelves_;
};

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

// A collection on the disk, and its clock.
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
      case Kind::kUpdate: {
        const absl::Status status =
            collection_
                ->Update(operation.ids.front(),
                         [&](Item& item) {
                           item.payload = PayloadOf(number, operation.shelf);
                           item.update_time = TimeOf(number);
                           return absl::OkStatus();
                         })
                .status();
        const bool exists =
            oracle.At(TimeOf(number)).contains(operation.ids.front());
        if (exists != status.ok()) {
          return absl::StrCat("update: ", status.ToString());
        }
        return absl::IsNotFound(status) ? "" : TextOf(status);
      }
      case Kind::kDelete:
        return TextOf(collection_->Delete(operation.ids).status());
      case Kind::kDeleteMatching:
        return DeleteMatching(operation, number, oracle);
      case Kind::kSweep: {
        absl::StatusOr<bool> more = true;
        while (more.ok() && *more) more = collection_->RemoveExpired();
        return TextOf(more.status());
      }
      case Kind::kRead:
        return Compare(oracle.At(TimeOf(number)), number);
    }
    return "";
  }

  // Compares every item, by list and by search, with what should be there.
  std::string Compare(const std::map<std::string, Item>& expected,
                      int64_t number) {
    clock_.Advance(TimeOf(number) - clock_.Now());
    const RequestContext context(&clock_, "test");
    std::map<std::string, Item> found;
    const absl::Status status =
        collection_->Scan(context, "", {.payload = true, .embedding = true},
                          nullptr, [&found](Item item) {
                            std::string id = item.id;
                            found.emplace(std::move(id), std::move(item));
                            return true;
                          });
    if (!status.ok()) return TextOf(status);
    for (const auto& [id, item] : expected) {
      const auto actual = found.find(id);
      if (actual == found.end()) return absl::StrCat(id, " lacks");
      const std::string difference = Difference(actual->second, item);
      if (!difference.empty())
        return absl::StrCat(id, " differs: ", difference);
    }
    for (const auto& [id, item] : found) {
      if (!expected.contains(id)) return absl::StrCat(id, " is a phantom");
    }
    return CompareSearch(expected);
  }

 private:
  static std::string TextOf(const absl::Status& status) {
    return status.ok() ? "" : status.ToString();
  }

  void Open() {
    collection_.reset();
    v1::Collection record;
    record.set_name("model");
    record.set_model("none");
    record.set_dimension(kDimension);
    v1::PayloadField& field = *record.add_payload_fields();
    field.set_path("shelf");
    field.set_type(v1::PayloadField::TYPE_NUMBER);
    collection_ = ValueOrDie(Collection::Open(
        path_, record,
        {.open_store = [this](const std::string& path, const v1::Collection&)
             -> absl::StatusOr<std::unique_ptr<ItemStore>> {
           // Small buffers: flushes and compactions are among what is killed.
           return RocksdbItemStore::Open({.path = path,
                                          .dimension = kDimension,
                                          // A kill loses nothing that was
                                          // written; tests/store/crash_test
                                          // syncs.
                                          .sync = SyncMode::kNever,
                                          .write_buffer_bytes = 64 << 10,
                                          .clock = &clock_});
         },
         .create_index =
             [](const v1::Collection&, const std::string&,
                ItemStore*) -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
           return std::make_unique<FakeVectorIndex>(kDimension);
         }}));
  }

  std::string DeleteMatching(const Operation& operation, int64_t number,
                             const Oracle& oracle) {
    int64_t expected = 0;
    for (const auto& [id, item] : oracle.At(TimeOf(number))) {
      if (oracle.shelf(id) == operation.shelf) ++expected;
    }
    const RequestContext context(&clock_, "test");
    const auto filter =
        ValueOrDie(ParseFilter(absl::StrCat("shelf = ", operation.shelf),
                               collection_->settings()->fields));
    const absl::StatusOr<int64_t> deleted =
        collection_->DeleteMatching(context, *filter);
    if (!deleted.ok()) return TextOf(deleted.status());
    return *deleted == expected
               ? ""
               : absl::StrCat("deleted ", *deleted, " instead of ", expected);
  }

  std::string CompareSearch(const std::map<std::string, Item>& expected) {
    if (expected.empty()) return "";
    RequestContext context(&clock_, "test");
    const std::vector<float>& query = expected.begin()->second.embedding;
    const auto lists = collection_->index().Search(
        context, {.data = query.data(), .rows = 1, .columns = kDimension},
        {.k = kIds});
    if (!lists.ok()) return TextOf(lists.status());
    // Expired items stay in the index until they are swept; hits are fetched.
    size_t found = 0;
    for (const ScoredId& hit : lists->front()) {
      found += expected.contains(hit.id) ? 1 : 0;
    }
    return found == expected.size()
               ? ""
               : absl::StrCat("a search finds ", found, " of ", expected.size(),
                              " items");
  }

  const std::string path_;
  FakeClock clock_;
  std::unique_ptr<Collection> collection_;
};

// The child: the operations from `first` to `last`, each acknowledged by a
// byte.
int RunChild(const std::string& path, int64_t first, int64_t last) {
  Oracle oracle;
  for (int64_t number = 1; number < first; ++number) oracle.Apply(number);
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
  // there is one, and counts what it acknowledges.
  void RunRound(int64_t last, std::optional<absl::Duration> delay) {
    std::array<int, 2> ends;
    ASSERT_EQ(::pipe(ends.data()), 0);
    const pid_t child = Spawn(ends, done_ + 1, last);
    ::close(ends[1]);
    const absl::Time end = absl::Now() + delay.value_or(absl::Hours(1));
    bool killed = false;
    std::array<char, 256> bytes;
    while (true) {
      pollfd readable = {.fd = ends[0], .events = POLLIN, .revents = 0};
      const int64_t wait_ms =
          std::max<int64_t>(0, absl::ToInt64Milliseconds(end - absl::Now()));
      if (delay.has_value() && !killed &&
          ::poll(&readable, 1, static_cast<int>(wait_ms)) == 0) {
        ::kill(child, SIGKILL);
        killed = true;
      }
      const ssize_t read = ::read(ends[0], bytes.data(), bytes.size());
      if (read <= 0) break;
      done_ += read;
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
    const absl::Time now = TimeOf(done_ + 1);
    const std::string without = subject.Compare(oracle_.At(now), done_ + 1);
    if (without.empty()) return;
    oracle_.Apply(++applied_);
    done_ = applied_;
    const std::string with = subject.Compare(oracle_.At(now), done_);
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
  const std::string path_ = directory_.path();
  Oracle oracle_;
  int64_t applied_ = 0;
};

TEST_F(ModelTest, TheCollectionIsWhatTheOracleSaysWheneverItIsKilled) {
  int64_t operations = kDefaultOperations;
  if (const char* text = std::getenv("QUERN_CRASH_OPERATIONS")) {
    ASSERT_TRUE(absl::SimpleAtoi(text, &operations)) << text;
  }
  std::mt19937 random(20260404);
  int kills = 0;
  while (done_ < operations) {
    SCOPED_TRACE(absl::StrCat("from operation ", done_ + 1));
    std::optional<absl::Duration> delay;
    if (std::bernoulli_distribution(kKillProbability)(random)) {
      delay = absl::Milliseconds(random() % 200);
      ++kills;
    }
    RunRound(std::min(operations, done_ + kOperationsPerRound), delay);
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
