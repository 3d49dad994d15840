// Background jobs of collections with the real server: optimizing, and
// embedding again with another model while the collection is used.

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/end_to_end/api.h"
#include "tests/model/package_writer.h"
#include "tests/model/tiny_towers.h"
#include "tests/model/torchscript_writer.h"
#include "tests/support/pictures.h"
#include "tests/support/quernd_process.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Stub = v1::Collections::Stub;

constexpr char kTiny[] = "tiny";
constexpr char kLite[] = "quern-lite";

// quernd with two models: the tiny one, of two dimensions, and the default one.
class CollectionJobsTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteTinyPackage(folder_.path());
    WriteTorchScript(folder_.PathOf("image.ts"), kTinyImageTower,
                     {0.4F, -0.3F, 0.5F, 0.5F, 0, 0}, 3, 2);
    // Six words; "a" is (1.2, 0), "b" is (0, 1.6) with the frame's two tokens.
    WriteTorchScript(
        folder_.PathOf("text.ts"), kTinyTextTower,
        {0, 0, 0.6F, 0.8F, 0.6F, 0.8F, 0.6F, 0.8F, 1.2F, 0, 0, 1.6F}, 6, 2);
    StartServer();
  }

  void StartServer() {
    server_ = std::make_unique<QuerndProcess>(
        data_.path(),
        std::vector<std::string>{
            "--set", "models.precision=fp32", "--set",
            absl::StrCat("models.paths=[", std::getenv("QUERN_CACHE"),
                         "/models/quern-lite,", folder_.path(), "]")});
    ASSERT_TRUE(server_->ready()) << server_->Log();
    api_ = std::make_unique<Api>(*server_);
  }

  template <typename Request>
  v1::Job CallJob(grpc::Status (Stub::*method)(grpc::ClientContext*,
                                               const Request&, v1::Job*),
                  const Request& request, grpc::Status* status) {
    grpc::ClientContext context;
    Api::SetDeadline(context);
    v1::Job job;
    const auto stub = v1::Collections::NewStub(api_->channel());
    *status = (stub.get()->*method)(&context, request, &job);
    return job;
  }

  v1::Job Reindex(const std::string& name, const std::string& model,
                  grpc::Status* status) {
    v1::ReindexCollectionRequest request;
    request.set_name(name);
    request.set_model(model);
    return CallJob(&Stub::Reindex, request, status);
  }

  v1::Job Get(const std::string& id) {
    v1::GetJobRequest request;
    request.set_id(id);
    grpc::Status status;
    v1::Job job = CallJob(&Stub::GetJob, request, &status);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }

  v1::Job AwaitEnd(const std::string& id) {
    v1::Job job = Get(id);
    while (!job.has_end_time() && !HasFailure()) {
      absl::SleepFor(absl::Milliseconds(5));
      job = Get(id);
    }
    return job;
  }

  void Create(const std::string& name, const std::string& model) {
    v1::CreateCollectionRequest create;
    create.mutable_collection()->set_name(name);
    create.mutable_collection()->set_model(model);
    create.mutable_collection()->mutable_parts()->set_keep_media(true);
    create.mutable_collection()->mutable_parts()->set_dense(
        v1::PartsConfig::DENSE_7X7);
    grpc::ClientContext context;
    Api::SetDeadline(context);
    v1::Collection created;
    const grpc::Status status = v1::Collections::NewStub(api_->channel())
                                    ->Create(&context, create, &created);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  static v1::UpsertRequest TextUpsert(const std::string& id,
                                      const std::string& text) {
    v1::UpsertRequest request;
    request.set_id(id);
    request.mutable_text()->assign(text);
    return request;
  }

  void Upsert(const std::string& collection,
              std::vector<v1::UpsertRequest> requests) {
    requests.front().set_collection(collection);
    grpc::Status status;
    const auto results = api_->Upsert(requests, &status);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(results.size(), requests.size());
    for (const auto& result : results) {
      ASSERT_EQ(result.status().code(), 0) << result.status().message();
    }
  }

  // Scores by id of all items.
  std::map<std::string, float> Scores(const std::string& collection,
                                      const std::string& text) {
    v1::SearchRequest request = TextSearch(collection, text);
    request.set_page_size(10'000);
    v1::SearchResponse response;
    const grpc::Status status = api_->Search(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    std::map<std::string, float> scores;
    for (const v1::Hit& hit : response.hits()) {
      scores[hit.item().id()] = hit.score();
    }
    return scores;
  }

  static void ExpectSameScores(const std::map<std::string, float>& actual,
                               const std::map<std::string, float>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [id, score] : expected) {
      ASSERT_EQ(actual.count(id), 1U) << id;
      EXPECT_NEAR(actual.at(id), score, 1e-4) << id;
    }
  }

  v1::Collection Describe(const std::string& name) {
    v1::Collection collection;
    EXPECT_TRUE(api_->GetCollection(name, &collection).ok());
    return collection;
  }

  size_t Folders() const {
    size_t folders = 0;
    for ([[maybe_unused]] const auto& entry :
         fs::directory_iterator(absl::StrCat(data_.path(), "/collections"))) {
      ++folders;
    }
    return folders;
  }

  TemporaryDirectory data_;
  TemporaryFolder folder_;
  std::unique_ptr<QuerndProcess> server_;
  std::unique_ptr<Api> api_;
};

std::vector<v1::UpsertRequest> Numbered(int count) {
  std::vector<v1::UpsertRequest> requests;
  for (int i = 0; i < count; ++i) {
    v1::UpsertRequest& request = requests.emplace_back();
    request.set_id(absl::StrCat("item ", i));
    request.mutable_text()->assign(
        absl::StrCat("picture number ", i, " of a red house"));
  }
  return requests;
}

TEST_F(CollectionJobsTest, OptimizeSealsTheIndexAndReportsAJob) {
  Create("photos", kTiny);
  Upsert("photos", {TextUpsert("a", "a"), TextUpsert("b", "b")});
  const auto before = Scores("photos", "a");
  v1::OptimizeCollectionRequest request;
  request.set_name("photos");
  grpc::Status status;
  const v1::Job job = CallJob(&Stub::Optimize, request, &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const v1::Job ended = AwaitEnd(job.id());
  EXPECT_EQ(ended.state(), v1::Job::STATE_SUCCEEDED) << ended.message();
  EXPECT_EQ(ended.kind(), "optimize");
  EXPECT_EQ(ended.progress(), 1);
  // Sealed segments are files; a delta has none.
  size_t segments = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(data_.path() + "/collections")) {
    if (entry.path().filename().string().starts_with("segment")) ++segments;
  }
  EXPECT_EQ(segments, 1U);
  ExpectSameScores(Scores("photos", "a"), before);
  EXPECT_EQ(Describe("photos").status().shards(0).item_count(), 2);
}

// The oracle is a collection of the new model that the same was put into.
TEST_F(CollectionJobsTest, ReindexSwapsUnderWritesAndSearches) {
  Create("photos", kTiny);
  std::vector<v1::UpsertRequest> items = Numbered(200);
  v1::UpsertRequest& picture = items.emplace_back();
  picture.set_id("picture");
  picture.mutable_image()->set_content(
      EncodePng(PlainImage(32, 32, 220, 10, 10)).value());
  Upsert("photos", items);

  grpc::Status status;
  const v1::Job job = Reindex("photos", kLite, &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(job.kind(), "reindex");
  std::atomic<bool> stop = false;
  std::atomic<int> written = 0;
  std::thread writer([&] {
    while (!stop) {
      Upsert("photos",
             {TextUpsert(absl::StrCat("late ", written.load()),
                         absl::StrCat("a blue car ", written.load()))});
      ++written;
    }
  });
  std::thread searcher([&] {
    while (!stop) EXPECT_GE(Scores("photos", "a").size(), 201U);
  });
  const v1::Job ended = AwaitEnd(job.id());
  const int at_the_swap = written;
  while (written < at_the_swap + 5 && !HasFailure()) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  stop = true;
  writer.join();
  searcher.join();
  ASSERT_EQ(ended.state(), v1::Job::STATE_SUCCEEDED) << ended.message();
  EXPECT_THAT(ended.message(), HasSubstr(kLite));

  Create("fresh", kLite);
  for (int i = 0; i < written; ++i) {
    items.push_back(
        TextUpsert(absl::StrCat("late ", i), absl::StrCat("a blue car ", i)));
  }
  Upsert("fresh", items);
  const auto expected = Scores("fresh", "a red house");
  for (const bool restarted : {false, true}) {
    if (restarted) {
      EXPECT_EQ(server_->Terminate(), 0) << server_->Log();
      StartServer();
    }
    const v1::Collection collection = Describe("photos");
    EXPECT_EQ(collection.model(), kLite);
    EXPECT_EQ(collection.dimension(), 512);
    ExpectSameScores(Scores("photos", "a red house"), expected);
  }
  EXPECT_EQ(Folders(), 2U);
}

TEST_F(CollectionJobsTest, KilledInTheMiddleTheCollectionIsAsItWas) {
  Create("photos", kTiny);
  Upsert("photos", Numbered(2000));
  const auto before = Scores("photos", "a");
  grpc::Status status;
  const v1::Job job = Reindex("photos", kLite, &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  for (v1::Job at = job; at.progress() == 0 && !HasFailure();
       at = Get(job.id())) {
    ASSERT_FALSE(at.has_end_time()) << at.message();
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(Folders(), 2U);
  Upsert("photos", {TextUpsert("late", "b")});
  server_->Kill();
  StartServer();
  EXPECT_EQ(Folders(), 1U);
  EXPECT_EQ(Describe("photos").model(), kTiny);
  auto after = Scores("photos", "a");
  EXPECT_EQ(after.erase("late"), 1U);
  ExpectSameScores(after, before);
  EXPECT_EQ(Describe("photos").status().item_count(), 2001);
  EXPECT_EQ(Describe("photos").status().jobs_size(), 0);
}

TEST_F(CollectionJobsTest, ReindexRefusesWhatItCannotDo) {
  grpc::Status status;
  Reindex("nothing", kLite, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  Create("photos", kTiny);
  Reindex("photos", "unknown", &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("unknown"));
  Reindex("photos", "", &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(status), "model");
  Upsert("photos", {EmbeddingUpsert("photos", "ready", {1, 0})});
  const v1::Job job = Reindex("photos", kLite, &status);
  ASSERT_TRUE(status.ok());
  const v1::Job ended = AwaitEnd(job.id());
  EXPECT_EQ(ended.state(), v1::Job::STATE_FAILED);
  EXPECT_THAT(ended.message(), HasSubstr("\"ready\""));
  EXPECT_EQ(Describe("photos").model(), kTiny);
  EXPECT_EQ(Scores("photos", "a").size(), 1U);
}

}  // namespace
}  // namespace quern
