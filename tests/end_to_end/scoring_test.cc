// A server in front and its scorer, both the real quernd with the real model.
//
// QUERN_KILL_REQUESTS and QUERN_KILLS make the test of killed scorers longer:
//   QUERN_KILL_REQUESTS=10000 QUERN_KILLS=5 build/release/bin/scoring_test

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/end_to_end/api.h"
#include "tests/support/quernd_process.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

int FromEnvironment(const char* name, int fallback) {
  const char* text = std::getenv(name);
  int value = fallback;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : fallback;
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// A scorer that needs no storage, here without models: features are enough.
std::unique_ptr<QuerndProcess> StartScorer(const std::string& address) {
  auto scorer = std::make_unique<QuerndProcess>(
      "/proc/no/folder/can/be/here",
      std::vector<std::string>{"--set", "server.role=scorer", "--set",
                               "models.paths=[]", "--set",
                               absl::StrCat("server.address=", address)});
  EXPECT_TRUE(scorer->ready()) << scorer->Log();
  return scorer;
}

class ScoringTest : public testing::Test {
 protected:
  ScoringTest()
      : scorer_(StartScorer("127.0.0.1:0")),
        scorer_address_(scorer_->address()),
        front_(data_.path(),
               {"--set", absl::StrCat("scoring.remote=[", scorer_address_, "]"),
                "--set", "log.level=warning"}) {
    EXPECT_TRUE(front_.ready()) << front_.Log();
  }

  // Collection "parts": pictures and a video, with what is kept of them.
  void Fill(Api& api) {
    v1::CreateCollectionRequest create;
    create.mutable_collection()->set_name("parts");
    v1::PartsConfig& parts = *create.mutable_collection()->mutable_parts();
    parts.set_dense(v1::PartsConfig::DENSE_7X7);
    parts.set_max_frames(8);
    grpc::ClientContext context;
    Api::SetDeadline(context);
    v1::Collection created;
    ASSERT_TRUE(v1::Collections::NewStub(api.channel())
                    ->Create(&context, create, &created)
                    .ok());
    const std::filesystem::path samples =
        std::filesystem::path(std::getenv("QUERN_CACHE")) / "samples";
    int pictures = 0;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(samples / "pictures")) {
      if (entry.path().extension() != ".png") continue;
      if (++pictures > 12) break;
      ASSERT_EQ(api.UpsertOne(ImageUpsert("parts", entry.path().filename(),
                                          ReadFile(entry.path())))
                    .code(),
                0);
    }
    v1::UpsertRequest video;
    video.set_collection("parts");
    video.set_id("video");
    video.mutable_video()->set_content(
        ReadFile(samples / "videos/bigbuckbunny.mp4"));
    ASSERT_EQ(api.UpsertOne(video).code(), 0);
  }

  static grpc::Status Search(Api& api, v1::Rerank::Method method,
                             v1::SearchResponse* response) {
    v1::SearchRequest request = TextSearch("parts", "a white rabbit");
    request.mutable_rerank()->set_method(method);
    return api.Search(request, response);
  }

  // Until the scorer answers.
  static void SearchUntilWhole(Api& api) {
    v1::SearchResponse response;
    do {
      const grpc::Status status =
          Search(api, v1::Rerank::METHOD_REMOTE, &response);
      ASSERT_TRUE(status.ok()) << status.error_message();
    } while (response.report().degraded());
  }

  TemporaryDirectory data_;
  std::unique_ptr<QuerndProcess> scorer_;
  const std::string scorer_address_;
  QuerndProcess front_;
};

TEST_F(ScoringTest, AScorerElsewhereSaysWhatThisProcessSays) {
  Api api(front_);
  Fill(api);
  v1::SearchResponse here;
  ASSERT_TRUE(Search(api, v1::Rerank::METHOD_BEST_PART, &here).ok());
  v1::SearchResponse there;
  ASSERT_TRUE(Search(api, v1::Rerank::METHOD_REMOTE, &there).ok());
  ASSERT_FALSE(there.report().degraded()) << there.report().degraded_reasons(0);
  std::map<std::string, const v1::Hit*> by_id;
  for (const v1::Hit& hit : here.hits()) by_id[hit.item().id()] = &hit;
  ASSERT_GT(there.hits_size(), 5);
  int compared = 0;
  for (const v1::Hit& hit : there.hits()) {
    const auto known = by_id.find(hit.item().id());
    if (known == by_id.end()) continue;
    ++compared;
    ASSERT_EQ(hit.stage_scores_size(), 2);
    EXPECT_EQ(hit.stage_scores(1).stage(), "remote");
    EXPECT_NEAR(hit.stage_scores(1).score(),
                known->second->stage_scores(1).score(), 0.02);
    ASSERT_EQ(hit.evidence_size(), 1);
    EXPECT_EQ(hit.evidence(0).where_case(),
              known->second->evidence(0).where_case());
  }
  EXPECT_GE(compared, 5);
}

TEST_F(ScoringTest, AKilledScorerCostsNoRequest) {
  const int requests = FromEnvironment("QUERN_KILL_REQUESTS", 300);
  const int kills = FromEnvironment("QUERN_KILLS", 2);
  constexpr int kThreads = 4;
  constexpr int kRequestsWithoutScorer = 20;
  {
    Api api(front_);
    Fill(api);
    SearchUntilWhole(api);
  }
  absl::Mutex mutex;
  int done = 0;
  int failed = 0;
  int degraded = 0;
  std::string first_failure;
  std::atomic<int> begun = 0;
  // Requests go on while the scorer is away, however many those are.
  std::atomic<bool> is_over = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      Api api(front_);
      while (begun++ < requests || !is_over) {
        v1::SearchResponse response;
        const grpc::Status status =
            Search(api, v1::Rerank::METHOD_REMOTE, &response);
        absl::MutexLock lock(&mutex);
        ++done;
        const bool is_good = status.ok() && response.hits_size() == 10;
        if (!is_good && failed++ == 0) first_failure = status.error_message();
        if (response.report().degraded()) ++degraded;
      }
    });
  }
  const auto await = [&](int count) {
    absl::MutexLock lock(&mutex);
    const auto is_there = [&]() { return done >= count; };
    mutex.Await(absl::Condition(&is_there));
    return done;
  };
  for (int kill = 1; kill <= kills; ++kill) {
    await(kill * requests / (kills + 1));
    scorer_->Kill();
    absl::MutexLock lock(&mutex);
    const int before = done;
    const auto is_there = [&]() {
      return done >= before + kRequestsWithoutScorer;
    };
    mutex.Await(absl::Condition(&is_there));
    mutex.Unlock();
    scorer_ = StartScorer(scorer_address_);
    mutex.Lock();
  }
  is_over = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0) << first_failure;
  EXPECT_GE(done, requests);
  EXPECT_GE(degraded, kills);
  Api api(front_);
  SearchUntilWhole(api);
  std::cout << done << " requests, scorer killed " << kills
            << " times: " << failed << " failed, " << degraded << " degraded"
            << std::endl;
}

}  // namespace
}  // namespace quern
