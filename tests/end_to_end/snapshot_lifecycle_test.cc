// Snapshots and replicas, with the real server.

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/end_to_end/api.h"
#include "tests/support/quernd_process.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int kDimension = 16;

std::vector<float> NumberedVector(int number) {
  std::vector<float> vector(kDimension, 0.01F);
  vector[number % kDimension] = 1;
  return vector;
}

void Fill(Api& api, int from, int to) {
  std::vector<v1::UpsertRequest> requests;
  for (int i = from; i < to; ++i) {
    requests.push_back(
        EmbeddingUpsert("c", absl::StrCat("item", i), NumberedVector(i)));
  }
  grpc::Status status;
  for (const auto& response : api.Upsert(requests, &status)) {
    EXPECT_EQ(response.status().code(), 0) << response.status().message();
  }
  ASSERT_TRUE(status.ok()) << status.error_message();
}

grpc::Status CreateSnapshot(const Api& api, const std::string& name) {
  v1::CreateSnapshotRequest request;
  request.set_collection("c");
  request.set_name(name);
  v1::Snapshot response;
  grpc::ClientContext context;
  Api::SetDeadline(context);
  return v1::Collections::NewStub(api.channel())
      ->CreateSnapshot(&context, request, &response);
}

std::vector<v1::Snapshot> ListSnapshots(const Api& api) {
  v1::ListSnapshotsResponse response;
  grpc::ClientContext context;
  Api::SetDeadline(context);
  const grpc::Status status =
      v1::Collections::NewStub(api.channel())
          ->ListSnapshots(&context, v1::ListSnapshotsRequest(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return {response.snapshots().begin(), response.snapshots().end()};
}

// Killed while it makes snapshots one after the other: those that were
// acknowledged are there and whole, and nothing half made is left.
TEST(SnapshotsTest, KillWhileSnapshotsAreMade) {
  TemporaryDirectory data;
  const std::string folder = data.path() + "/snapshots/c";
  std::atomic<int> acknowledged = 0;
  {
    QuerndProcess server(data.path());
    ASSERT_TRUE(server.ready()) << server.Log();
    Api api(server);
    ASSERT_TRUE(api.CreateCollection("c", kDimension).ok());
    Fill(api, 0, 500);
    std::thread maker([&] {
      while (CreateSnapshot(api, absl::StrCat("s", acknowledged.load())).ok()) {
        ++acknowledged;
      }
    });
    while (acknowledged < 5) std::this_thread::yield();
    server.Kill();
    maker.join();
  }
  QuerndProcess server(data.path());
  ASSERT_TRUE(server.ready()) << server.Log();
  for (const auto& entry : fs::directory_iterator(folder)) {
    EXPECT_NE(entry.path().filename().string()[0], '.') << entry.path();
  }
  Api api(server);
  const std::vector<v1::Snapshot> found = ListSnapshots(api);
  // One more may have been made and not acknowledged.
  EXPECT_GE(static_cast<int>(found.size()), acknowledged);
  EXPECT_LE(static_cast<int>(found.size()), acknowledged + 1);
  for (const v1::Snapshot& snapshot : found) {
    EXPECT_EQ(snapshot.item_count(), 500);
    v1::RestoreSnapshotRequest request;
    request.set_collection("c");
    request.set_name(snapshot.name());
    request.set_new_collection("from-" + snapshot.name());
    v1::Collection restored;
    grpc::ClientContext context;
    Api::SetDeadline(context);
    const grpc::Status status =
        v1::Collections::NewStub(api.channel())
            ->RestoreSnapshot(&context, request, &restored);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(restored.status().item_count(), 500);
  }
}

TEST(SnapshotsTest, AReplicaFollowsWithoutAFailedRequestAndTakesNoWrites) {
  TemporaryDirectory data, nothing;
  QuerndProcess primary(data.path());
  ASSERT_TRUE(primary.ready()) << primary.Log();
  Api api(primary);
  ASSERT_TRUE(api.CreateCollection("c", kDimension).ok());
  Fill(api, 0, 20);
  ASSERT_TRUE(CreateSnapshot(api, "s0").ok());
  // Nothing was saved of the index yet; a copy of a snapshot has no such
  // folder then, and the replica is not to make one.
  const std::string index_folder = data.path() + "/snapshots/c/s0/index";
  ASSERT_TRUE(fs::remove(index_folder));

  const std::string unused = nothing.path() + "/unused";
  QuerndProcess replica(
      unused, {"--set",
               absl::StrCat("storage.replica_of=", data.path(), "/snapshots")});
  ASSERT_TRUE(replica.ready()) << replica.Log();
  EXPECT_FALSE(fs::exists(index_folder));
  Api copy(replica);
  std::atomic<bool> stop = false;
  std::atomic<int64_t> seen = 0;
  std::thread searcher([&] {
    while (!stop) {
      v1::SearchResponse found;
      const grpc::Status status =
          copy.Search(EmbeddingSearch("c", NumberedVector(3)), &found);
      ASSERT_TRUE(status.ok()) << status.error_message();
      ASSERT_EQ(found.hits_size(), 10);
      ASSERT_GE(found.report().item_count(), seen.load());
      seen = found.report().item_count();
    }
  });
  for (int round = 1; round <= 3; ++round) {
    Fill(api, 20 * round, 20 * (round + 1));
    ASSERT_TRUE(CreateSnapshot(api, absl::StrCat("s", round)).ok());
    while (seen < 20 * (round + 1)) std::this_thread::yield();
    v1::DeleteSnapshotRequest request;
    request.set_collection("c");
    request.set_name(absl::StrCat("s", round - 1));
    v1::DeleteSnapshotResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(v1::Collections::NewStub(api.channel())
                    ->DeleteSnapshot(&context, request, &response)
                    .ok());
  }
  stop = true;
  searcher.join();

  const google::rpc::Status refused =
      copy.UpsertOne(EmbeddingUpsert("c", "x", NumberedVector(1)));
  EXPECT_EQ(refused.code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.message(), HasSubstr("storage.replica_of"));
  EXPECT_FALSE(fs::exists(unused));
  EXPECT_EQ(replica.Terminate(), 0) << replica.Log();
}

TEST(SnapshotsTest, AReplicaOfNothing) {
  TemporaryDirectory data;
  QuerndProcess server(data.path(),
                       {"--set", "storage.replica_of=/nowhere/snapshots"});
  EXPECT_FALSE(server.ready());
  EXPECT_EQ(server.Wait(), 1);
  EXPECT_THAT(server.Log(), HasSubstr("/nowhere/snapshots is not a folder"));
}

}  // namespace
}  // namespace quern
