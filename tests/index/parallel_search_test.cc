// Searches that a crew of threads helps with, beside the same ones done alone.

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/clock.h"
#include "engine/index/index_files.h"
#include "engine/index/segment.h"
#include "engine/index/sharded_index.h"
#include "tests/index/clustered_vectors.h"
#include "tests/index/same_results.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr int64_t kDimension = 32;
constexpr int64_t kRows = 6000;
constexpr int64_t kQueries = 20;

const RealClock kClock;

struct Form {
  std::string name;
  IndexKind kind;
  VectorStorage storage;
  int32_t shards;
};

class ParallelSearchTest : public testing::TestWithParam<Form> {
 protected:
  using Results = std::vector<std::vector<ScoredId>>;

  // Over the files of one folder, so that graphs and lists are the same. With
  // a crew there is also a cache, for some of the vectors.
  std::unique_ptr<ShardedIndex> Open(const Form& form,
                                     std::shared_ptr<WorkCrew> crew) const {
    return ValueOrDie(ShardedIndex::Create(
        {.dimension = kDimension,
         .kind = form.kind,
         .storage = form.storage,
         .shards = form.shards,
         .fields = fields_,
         .directory = directory_.File("index"),
         .reader =
             [this](absl::Span<const std::string> ids,
                    const std::function<void(size_t, absl::Span<const float>)>&
                        visit) {
               for (size_t i = 0; i < ids.size(); ++i) {
                 visit(i, vectors_.row(std::stoll(ids[i])));
               }
               return absl::OkStatus();
             },
         .cache = crew == nullptr ? nullptr
                                  : std::make_shared<VectorCache>(256 << 10),
         .crew = std::move(crew),
         .min_crew_bytes = 0,
         .min_ann_rows = 1000}));
  }

  void Write(ShardedIndex& index, int64_t first, int64_t last) const {
    std::vector<std::string> ids;
    std::vector<FieldValues> fields;
    for (int64_t i = first; i < last; ++i) {
      ids.push_back(absl::StrCat(i));
      fields.push_back({.entries = {{0, FieldValue(static_cast<double>(i))}}});
    }
    ASSERT_THAT(index.Upsert(ids,
                             {.data = vectors_.row(first).data(),
                              .rows = last - first,
                              .columns = kDimension},
                             fields),
                IsOk());
  }

  // Most rows sealed, the last ones in deltas, some of both dead.
  void WriteMore(ShardedIndex& index) const {
    Write(index, kRows - 1000, kRows);
    Write(index, 100, 200);
    std::vector<std::string> removed;
    for (int64_t i = 3; i < kRows; i += 11) removed.push_back(absl::StrCat(i));
    ASSERT_THAT(index.Remove(removed), IsOk());
  }

  void MakeFiles(const Form& form) const {
    const auto index = Open(form, nullptr);
    Write(*index, 0, kRows - 1000);
    const RequestContext context(&kClock, "test");
    ASSERT_THAT(index->Optimize(context, [](float) {}), IsOk());
  }

  std::vector<VectorSearchOptions> Searches() const {
    std::vector<VectorSearchOptions> searches;
    for (const char* text : {"", "n < 4000", "n < 300", "n < 20", "n < 0"}) {
      for (const int64_t k : {1, 10, 300, 10'000}) {
        if (k > kRows && *text != '\0') continue;
        for (const bool exact : {false, true}) {
          VectorSearchOptions& options = searches.emplace_back();
          options.k = k;
          options.exact = exact;
          options.explain = true;
          if (*text != '\0') {
            options.filter = ValueOrDie(ParseFilter(text, fields_));
          }
        }
      }
    }
    return searches;
  }

  MatrixView Queries(int64_t count) const {
    return {.data = queries_.data(), .rows = count, .columns = kDimension};
  }

  const Matrix vectors_ = ClusteredVectors(kRows, kDimension, 200, 2);
  const Matrix queries_ = ClusteredVectors(kQueries, kDimension, 200, 3);
  const std::vector<FieldDeclaration> fields_ = {
      {.path = "n", .type = FieldType::kNumber}};
  const TemporaryDirectory directory_;
};

TEST_P(ParallelSearchTest, FindsWhatOneThreadFinds) {
  MakeFiles(GetParam());
  const auto alone = Open(GetParam(), nullptr);
  WriteMore(*alone);
  for (const int threads : {1, 3}) {
    const auto together =
        Open(GetParam(),
             std::make_shared<WorkCrew>(WorkCrewOptions{.threads = threads}));
    WriteMore(*together);
    for (const VectorSearchOptions& options : Searches()) {
      for (const int64_t queries : {int64_t{1}, int64_t{3}, kQueries}) {
        const RequestContext context(&kClock, "test");
        SearchStats expected;
        SearchStats stats;
        const Results one = ValueOrDie(
            alone->Search(context, Queries(queries), options, &expected));
        SCOPED_TRACE(absl::StrCat(threads, " threads, ", queries,
                                  " queries, k ", options.k, ", ",
                                  expected.plan));
        ExpectSameResults(ValueOrDie(together->Search(context, Queries(queries),
                                                      options, &stats)),
                          one);
        EXPECT_EQ(stats.plan, expected.plan);
      }
    }
  }
}

TEST_P(ParallelSearchTest, ABatchFindsWhatItsQueriesFindAlone) {
  MakeFiles(GetParam());
  const auto index =
      Open(GetParam(), std::make_shared<WorkCrew>(WorkCrewOptions{}));
  WriteMore(*index);
  const RequestContext context(&kClock, "test");
  for (const VectorSearchOptions& options : Searches()) {
    const Results batch =
        ValueOrDie(index->Search(context, Queries(kQueries), options));
    Results single;
    for (int64_t q = 0; q < kQueries; ++q) {
      single.push_back(ValueOrDie(index->Search(context,
                                                {.data = queries_.row(q).data(),
                                                 .rows = 1,
                                                 .columns = kDimension},
                                                options))
                           .front());
    }
    ExpectSameResults(batch, single);
  }
}

TEST_P(ParallelSearchTest, CallersAtTheSameTimeShareTheCrew) {
  MakeFiles(GetParam());
  const auto index = Open(
      GetParam(), std::make_shared<WorkCrew>(WorkCrewOptions{.threads = 2}));
  WriteMore(*index);
  const std::vector<VectorSearchOptions> searches = Searches();
  std::vector<Results> expected;
  const RequestContext context(&kClock, "test");
  for (const VectorSearchOptions& options : searches) {
    expected.push_back(
        ValueOrDie(index->Search(context, Queries(kQueries), options)));
  }
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (size_t i = 0; i < searches.size(); ++i) {
        ExpectSameResults(
            ValueOrDie(index->Search(context, Queries(kQueries), searches[i])),
            expected[i]);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

INSTANTIATE_TEST_SUITE_P(
    Forms, ParallelSearchTest,
    testing::Values(
        Form{"ExactFp32", IndexKind::kExact, VectorStorage::kFp32, 1},
        Form{"ExactInt8", IndexKind::kExact, VectorStorage::kInt8, 3},
        Form{"HnswFp16", IndexKind::kHnsw, VectorStorage::kFp16, 1},
        Form{"HnswInt8", IndexKind::kHnsw, VectorStorage::kInt8, 3},
        Form{"IvfPqInt8", IndexKind::kIvfPq, VectorStorage::kInt8, 2}),
    [](const auto& info) { return info.param.name; });

// Stands still for so many looks, and is then an hour further.
class LimitedClock final : public Clock {
 public:
  explicit LimitedClock(int64_t looks) : looks_(looks) {}

  absl::Time Now() const override {
    return ++asked_ <= looks_ ? absl::UnixEpoch()
                              : absl::UnixEpoch() + absl::Hours(1);
  }
  int64_t asked() const { return asked_; }

 private:
  const int64_t looks_;
  mutable std::atomic<int64_t> asked_ = 0;
};

// Each in its own way, and one by one.
class ParallelSearchStopTest : public ParallelSearchTest {
 protected:
  static std::vector<VectorSearchOptions> Ways() {
    return {{.k = 10, .explain = true},
            {.k = 10, .exact = true, .explain = true}};
  }

  void ExpectWay(const std::string& plan, bool exact) const {
    const IndexKind kind = exact ? IndexKind::kExact : GetParam().kind;
    EXPECT_THAT(plan,
                testing::HasSubstr(kind == IndexKind::kHnsw    ? "graph"
                                   : kind == IndexKind::kIvfPq ? "lists"
                                                               : "Compared"));
  }
};

TEST_P(ParallelSearchStopTest, PiecesAfterTheDeadlineDoNotBegin) {
  MakeFiles(GetParam());
  const auto crew = std::make_shared<WorkCrew>(WorkCrewOptions{.threads = 3});
  const auto index = Open(GetParam(), crew);
  for (const VectorSearchOptions& options : Ways()) {
    const auto looks_within = [&](int64_t looks) {
      const LimitedClock clock(looks);
      const RequestContext context(&clock, "test",
                                   absl::UnixEpoch() + absl::Minutes(1));
      SearchStats stats;
      const auto results =
          index->Search(context, Queries(kQueries), options, &stats);
      EXPECT_EQ(results.ok(), clock.asked() <= looks);
      if (results.ok()) {
        ExpectWay(stats.plan, options.exact);
      } else {
        EXPECT_THAT(results, StatusIs(absl::StatusCode::kDeadlineExceeded));
      }
      return clock.asked();
    };
    const int64_t all = looks_within(1'000'000);
    EXPECT_GT(all, 20);
    for (const int64_t looks : {1, 2, 5, 10}) {
      // Each worker finds out once.
      EXPECT_LE(looks_within(looks), looks + crew->workers());
    }
  }
}

TEST_P(ParallelSearchStopTest, ACancelledSearchStops) {
  MakeFiles(GetParam());
  const auto index = Open(
      GetParam(), std::make_shared<WorkCrew>(WorkCrewOptions{.threads = 1}));
  for (const VectorSearchOptions& options : Ways()) {
    RequestContext context(&kClock, "test");
    absl::Notification searching;
    std::thread caller([&] {
      absl::Status status;
      while (status.ok()) {
        status = index->Search(context, Queries(kQueries), options).status();
        if (!searching.HasBeenNotified()) searching.Notify();
      }
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled));
    });
    searching.WaitForNotification();
    context.Cancel();
    caller.join();
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, ParallelSearchStopTest,
                         testing::Values(Form{"ExactFp32", IndexKind::kExact,
                                              VectorStorage::kFp32, 1},
                                         Form{"HnswInt8", IndexKind::kHnsw,
                                              VectorStorage::kInt8, 2},
                                         Form{"IvfPqInt8", IndexKind::kIvfPq,
                                              VectorStorage::kInt8, 2}),
                         [](const auto& info) { return info.param.name; });

// What one thread has begun it leaves in the middle.
class SearchStopTest : public ParallelSearchTest {
 protected:
  // The one segment of an index of such a form.
  std::shared_ptr<const Segment> MakeSegment(const Form& form) const {
    MakeFiles(form);
    const std::string folder = directory_.File("index");
    const IndexFile file = ValueOrDie(ReadManifest(folder)).segments.at(0).file;
    return ValueOrDie(Segment::Parse(
        ValueOrDie(ReadIndexFile(SegmentPath(folder, file.id), file))));
  }
};

TEST_F(SearchStopTest, AWalkThroughAGraph) {
  const auto segment =
      MakeSegment({"Hnsw", IndexKind::kHnsw, VectorStorage::kFp32, 1});
  const IndexPart part{.segment = segment, .rows = segment->rows()};
  const EncodedQuery query(queries_.row(0));
  std::vector<ScoredRow> found;
  const auto looks_within = [&](int64_t looks) {
    const LimitedClock clock(looks);
    const RequestContext context(&clock, "test",
                                 absl::UnixEpoch() + absl::Minutes(1));
    const absl::Status status =
        SearchGraph(context, {.part = part}, query, 1000, &found);
    EXPECT_EQ(status.ok(), clock.asked() <= looks) << status;
    return clock.asked();
  };
  EXPECT_GE(looks_within(1'000'000), 5);
  EXPECT_EQ(found.size(), 1000u);
  for (const int64_t looks : {0, 1, 3}) {
    EXPECT_EQ(looks_within(looks), looks + 1);
  }
}

TEST_F(SearchStopTest, ALookIntoLists) {
  const auto segment =
      MakeSegment({"IvfPq", IndexKind::kIvfPq, VectorStorage::kFp32, 1});
  int asked = 0;
  int allowed = 1000;
  const auto search = [&] {
    asked = 0;
    return segment->ivf()
        ->Search(Queries(kQueries), 8, 100,
                 [&] {
                   return ++asked <= allowed ? absl::OkStatus()
                                             : absl::CancelledError("gone");
                 })
        .status();
  };
  EXPECT_THAT(search(), IsOk());
  ASSERT_GE(asked, 2);
  for (allowed = 0; allowed < 2; ++allowed) {
    EXPECT_THAT(search(), StatusIs(absl::StatusCode::kCancelled));
    EXPECT_EQ(asked, allowed + 1);
  }
}

}  // namespace
}  // namespace quern
