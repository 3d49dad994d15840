// Snapshots over the wire: unary calls, both streams, and a replica.

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/server/server_fixture.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Stub = v1::Collections::Stub;

class SnapshotCallsTest : public ServerTest {
 protected:
  void SetUp() override {
    StartServer();
    ASSERT_TRUE(Create("photos").ok());
  }

  void Fill(int count, size_t text_bytes = 10) {
    std::vector<v1::UpsertRequest> requests;
    for (int i = 0; i < count; ++i) {
      requests.push_back(TextItem("photos", absl::StrCat(i), "red"));
      (*requests.back().mutable_payload()->mutable_fields())["x"]
          .set_string_value(std::string(text_bytes, 'x'));
    }
    grpc::Status status;
    Upsert(requests, &status);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  grpc::Status CreateSnapshot(const std::string& collection,
                              const std::string& name,
                              v1::Snapshot* response = nullptr) {
    v1::CreateSnapshotRequest request;
    request.set_collection(collection);
    request.set_name(name);
    v1::Snapshot ignored;
    return Call(v1::Collections::NewStub(channel_), &Stub::CreateSnapshot,
                request, response == nullptr ? &ignored : response);
  }

  grpc::Status ListSnapshots(const v1::ListSnapshotsRequest& request,
                             v1::ListSnapshotsResponse* response) {
    return Call(v1::Collections::NewStub(channel_), &Stub::ListSnapshots,
                request, response);
  }

  grpc::Status DeleteSnapshot(const std::string& collection,
                              const std::string& name) {
    v1::DeleteSnapshotRequest request;
    request.set_collection(collection);
    request.set_name(name);
    v1::DeleteSnapshotResponse response;
    return Call(v1::Collections::NewStub(channel_), &Stub::DeleteSnapshot,
                request, &response);
  }

  grpc::Status Restore(const std::string& name, const std::string& to,
                       v1::Collection* response) {
    v1::RestoreSnapshotRequest request;
    request.set_collection("photos");
    request.set_name(name);
    request.set_new_collection(to);
    return Call(v1::Collections::NewStub(channel_), &Stub::RestoreSnapshot,
                request, response);
  }

  grpc::Status Export(const std::string& name, std::string* tar) {
    v1::ExportSnapshotRequest request;
    request.set_collection("photos");
    request.set_name(name);
    grpc::ClientContext context;
    const auto stream =
        v1::Collections::NewStub(channel_)->ExportSnapshot(&context, request);
    v1::SnapshotChunk chunk;
    while (stream->Read(&chunk)) {
      EXPECT_LE(chunk.data().size(), size_t{1} << 20);
      *tar += chunk.data();
    }
    return stream->Finish();
  }

  // Names what is imported in the first message alone.
  grpc::Status Import(const std::string& collection, const std::string& name,
                      const std::string& tar, v1::Snapshot* response,
                      size_t piece_bytes = 1 << 20) {
    grpc::ClientContext context;
    const auto stream =
        v1::Collections::NewStub(channel_)->ImportSnapshot(&context, response);
    v1::ImportSnapshotRequest request;
    request.set_collection(collection);
    request.set_name(name);
    for (size_t at = 0; at < tar.size(); at += piece_bytes) {
      request.mutable_chunk()->set_data(tar.substr(at, piece_bytes));
      if (!stream->Write(request)) break;
      request.Clear();
    }
    stream->WritesDone();
    return stream->Finish();
  }

  std::vector<std::string> SnapshotFolders() {
    std::vector<std::string> names;
    const std::string path = data_.path() + "/snapshots";
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_directory() && entry.path().parent_path() != path &&
          entry.path().parent_path().parent_path() == path) {
        names.push_back(entry.path().filename());
      }
    }
    return names;
  }
};

TEST_F(SnapshotCallsTest, CreateListRestoreDelete) {
  Fill(20);
  v1::Snapshot made;
  ASSERT_TRUE(CreateSnapshot("photos", "s", &made).ok());
  EXPECT_EQ(made.name(), "s");
  EXPECT_EQ(made.collection(), "photos");
  EXPECT_EQ(made.item_count(), 20);
  EXPECT_GT(made.size_bytes(), 0);
  EXPECT_NE(made.model_fingerprint(), "");
  EXPECT_EQ(made.create_time().seconds(), absl::ToUnixSeconds(clock_->Now()));
  v1::ListSnapshotsResponse listed;
  ASSERT_TRUE(ListSnapshots({}, &listed).ok());
  ASSERT_EQ(listed.snapshots_size(), 1);
  EXPECT_EQ(listed.snapshots(0).SerializeAsString(), made.SerializeAsString());

  v1::Collection restored;
  const grpc::Status status = Restore("s", "again", &restored);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(restored.status().item_count(), 20);
  v1::SearchResponse found;
  ASSERT_TRUE(Search(TextSearch("again", "red"), &found).ok());
  EXPECT_EQ(found.hits_size(), 10);
  EXPECT_EQ(Restore("s", "again", &restored).error_code(),
            grpc::StatusCode::ALREADY_EXISTS);

  EXPECT_TRUE(DeleteSnapshot("photos", "s").ok());
  EXPECT_EQ(DeleteSnapshot("photos", "s").error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(SnapshotFolders().empty());
}

TEST_F(SnapshotCallsTest, ListsByPageNewestFirst) {
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    ASSERT_TRUE(CreateSnapshot("photos", name).ok());
    // Two of each time.
    if (name[0] % 2 == 0) clock_->Advance(absl::Seconds(1));
  }
  v1::ListSnapshotsRequest request;
  request.set_collection("photos");
  request.set_page_size(2);
  std::vector<std::string> names;
  std::string first_token;
  do {
    v1::ListSnapshotsResponse page;
    ASSERT_TRUE(ListSnapshots(request, &page).ok());
    for (const auto& snapshot : page.snapshots()) {
      names.push_back(snapshot.name());
    }
    if (first_token.empty()) {
      first_token = page.next_page_token();
      // What the next page begins behind may go.
      ASSERT_TRUE(DeleteSnapshot("photos", names.back()).ok());
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(names, ElementsAre("e", "c", "d", "a", "b"));

  // A token of another list.
  request.set_collection("");
  request.set_page_token(first_token);
  v1::ListSnapshotsResponse page;
  grpc::Status status = ListSnapshots(request, &page);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(status.error_details()), "page_token");
  request.clear_page_token();
  request.set_page_size(0);
  status = ListSnapshots(request, &page);
  EXPECT_EQ(ViolatedField(status.error_details()), "page_size");
}

TEST_F(SnapshotCallsTest, NamesThatAreNone) {
  ASSERT_TRUE(CreateSnapshot("photos", "s").ok());
  for (const char* bad : {"../s", "a/b", ".", "..", "S"}) {
    const grpc::Status created = CreateSnapshot("photos", bad);
    EXPECT_EQ(created.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(ViolatedField(created.error_details()), "name");
    v1::Collection restored;
    const grpc::Status status = Restore("s", bad, &restored);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(ViolatedField(status.error_details()), "new_collection");
    v1::Snapshot imported;
    EXPECT_EQ(Import("photos", bad, "x", &imported).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(Import(bad, "x", "x", &imported).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
  const grpc::Status empty = CreateSnapshot("", "x");
  EXPECT_EQ(ViolatedField(empty.error_details()), "collection");
  EXPECT_EQ(CreateSnapshot("nothing", "x").error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(SnapshotCallsTest, AnExportImportedIsTheSameSnapshot) {
  Fill(100, 40'000);
  ASSERT_TRUE(CreateSnapshot("photos", "s").ok());
  std::string tar;
  grpc::Status status = Export("s", &tar);
  ASSERT_TRUE(status.ok()) << status.error_message();
  // More than one message.
  ASSERT_GT(tar.size(), size_t{3} << 20);
  v1::Snapshot imported;
  status = Import("elsewhere", "t", tar, &imported, 100'000);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(imported.collection(), "elsewhere");
  EXPECT_EQ(imported.name(), "t");
  EXPECT_EQ(imported.item_count(), 100);
  // As soon as the export has ended the snapshot can go.
  EXPECT_TRUE(DeleteSnapshot("photos", "s").ok());
  EXPECT_EQ(Export("s", &tar).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(SnapshotCallsTest, ABadImportIsRefusedAndLeavesNothing) {
  Fill(3);
  ASSERT_TRUE(CreateSnapshot("photos", "s").ok());
  std::string tar;
  ASSERT_TRUE(Export("s", &tar).ok());
  ASSERT_TRUE(DeleteSnapshot("photos", "s").ok());
  v1::Snapshot imported;
  const auto refuse = [&](const std::string& bytes, size_t piece_bytes) {
    const grpc::Status status =
        Import("photos", "s", bytes, &imported, piece_bytes);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << status.error_message();
    EXPECT_TRUE(SnapshotFolders().empty());
    return status;
  };
  refuse(tar.substr(0, tar.size() / 2), 1 << 20);
  refuse("nonsense", 1 << 20);
  refuse("", 1 << 20);
  EXPECT_EQ(
      ViolatedField(
          refuse(std::string((1 << 20) + 1, 'x'), 2 << 20).error_details()),
      "chunk.data");
  // Refused while the caller still sends.
  refuse(std::string(20 << 20, 'x'), 1 << 20);
  // The second message names another snapshot.
  grpc::ClientContext context;
  const auto stream =
      v1::Collections::NewStub(channel_)->ImportSnapshot(&context, &imported);
  v1::ImportSnapshotRequest request;
  request.set_collection("photos");
  request.set_name("s");
  request.mutable_chunk()->set_data(tar.substr(0, 100));
  stream->Write(request);
  request.set_name("t");
  stream->Write(request);
  stream->WritesDone();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(SnapshotFolders().empty());
  // The intact one is taken.
  EXPECT_TRUE(Import("photos", "s", tar, &imported).ok());
}

TEST_F(SnapshotCallsTest, ACancelledImportLeavesNothing) {
  Fill(3);
  ASSERT_TRUE(CreateSnapshot("photos", "s").ok());
  std::string tar;
  ASSERT_TRUE(Export("s", &tar).ok());
  ASSERT_TRUE(DeleteSnapshot("photos", "s").ok());
  // More of them than run at once: none stays behind and takes a place.
  for (int i = 0; i < 5; ++i) {
    grpc::ClientContext context;
    v1::Snapshot imported;
    const auto stream =
        v1::Collections::NewStub(channel_)->ImportSnapshot(&context, &imported);
    v1::ImportSnapshotRequest request;
    request.set_collection("photos");
    request.set_name("s");
    request.mutable_chunk()->set_data(tar.substr(0, 2000));
    stream->Write(request);
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  v1::Snapshot imported;
  grpc::Status status;
  do {
    status = Import("photos", "s", tar, &imported);
  } while (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ||
           status.error_code() == grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(SnapshotFolders(), ElementsAre("s"));
}

TEST_F(SnapshotCallsTest,
       ADeadlineEndsAStalledImportAndAnExportThatNobodyReads) {
  Fill(200, 60'000);
  ASSERT_TRUE(CreateSnapshot("photos", "s").ok());
  v1::ExportSnapshotRequest request;
  request.set_collection("photos");
  request.set_name("s");
  const auto soon = [] {
    return std::chrono::system_clock::now() + std::chrono::milliseconds(300);
  };
  {
    grpc::ClientContext context;
    context.set_deadline(soon());
    const auto stream =
        v1::Collections::NewStub(channel_)->ExportSnapshot(&context, request);
    v1::SnapshotChunk chunk;
    EXPECT_TRUE(stream->Read(&chunk));
    grpc::ClientContext importing;
    importing.set_deadline(soon());
    v1::Snapshot imported;
    const auto upload = v1::Collections::NewStub(channel_)->ImportSnapshot(
        &importing, &imported);
    v1::ImportSnapshotRequest piece;
    piece.set_collection("photos");
    piece.set_name("t");
    piece.mutable_chunk()->set_data(chunk.data().substr(0, 1000));
    upload->Write(piece);
    EXPECT_EQ(upload->Finish().error_code(),
              grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  // The export holds the snapshot no longer than its call.
  grpc::Status status;
  do {
    status = DeleteSnapshot("photos", "s");
  } while (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(SnapshotCallsTest, AnExportThatNobodyReadsIsCutOffWithoutADeadline) {
  Backends backends = MakeBackends();
  backends.stall_timeout = absl::Milliseconds(300);
  server_ = nullptr;  // It holds the folder.
  server_ = ValueOrDie(Server::Create(config_, std::move(backends)));
  channel_ = grpc::CreateChannel(server_->address(),
                                 grpc::InsecureChannelCredentials());
  Fill(200, 60'000);
  ASSERT_TRUE(CreateSnapshot("photos", "s").ok());
  v1::ExportSnapshotRequest request;
  request.set_collection("photos");
  request.set_name("s");
  grpc::ClientContext context;
  const auto stream =
      v1::Collections::NewStub(channel_)->ExportSnapshot(&context, request);
  v1::SnapshotChunk chunk;
  EXPECT_TRUE(stream->Read(&chunk));
  grpc::Status status;
  do {
    status = DeleteSnapshot("photos", "s");
  } while (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(status.ok()) << status.error_message();
  while (stream->Read(&chunk)) {
  }
  EXPECT_FALSE(stream->Finish().ok());
}

TEST_F(SnapshotCallsTest, ADamagedSnapshotIsListedAndCanBeDeleted) {
  ASSERT_TRUE(CreateSnapshot("photos", "bad").ok());
  ASSERT_TRUE(CreateSnapshot("photos", "good").ok());
  const std::string manifest =
      data_.path() + "/snapshots/photos/bad/snapshot.json";
  std::ofstream(manifest) << "{";
  v1::ListSnapshotsRequest request;
  request.set_page_size(1);
  std::vector<v1::Snapshot> listed;
  do {
    v1::ListSnapshotsResponse page;
    ASSERT_TRUE(ListSnapshots(request, &page).ok());
    listed.insert(listed.end(), page.snapshots().begin(),
                  page.snapshots().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  ASSERT_EQ(listed.size(), 2u);
  EXPECT_EQ(listed[0].name(), "good");
  EXPECT_EQ(listed[0].error(), "");
  EXPECT_EQ(listed[1].name(), "bad");
  EXPECT_EQ(listed[1].collection(), "photos");
  EXPECT_THAT(listed[1].error(), HasSubstr(manifest));
  EXPECT_FALSE(listed[1].has_create_time());
  EXPECT_TRUE(DeleteSnapshot("photos", "bad").ok());
}

// A second server follows the first one's snapshots.
class ReplicaCallsTest : public SnapshotCallsTest {
 protected:
  void StartReplica() {
    config_.mutable_storage()->set_replica_of(data_.path() + "/snapshots");
    config_.mutable_storage()->set_path("/nowhere/at/all");
    FakeClock* const clock = clock_;
    Backends backends = MakeBackends();
    clock_ = clock;
    // Its own clock goes on; its stores have the other.
    stores_clock_ =
        std::exchange(backends.clock, std::make_unique<RealClock>());
    replica_ = ValueOrDie(Server::Create(config_, std::move(backends)));
    PublishToAllThreads();
    replica_channel_ = grpc::CreateChannel(replica_->address(),
                                           grpc::InsecureChannelCredentials());
  }

  std::unique_ptr<Clock> stores_clock_;
  std::unique_ptr<Server> replica_;
  std::shared_ptr<grpc::Channel> replica_channel_;
};

TEST_F(ReplicaCallsTest, FollowsWithoutAFailedSearch) {
  Fill(1);
  ASSERT_TRUE(CreateSnapshot("photos", "s1").ok());
  FakeClock* const clock = clock_;
  StartReplica();
  std::atomic<bool> stop = false;
  std::atomic<int> seen = 0;
  std::thread searcher([&] {
    const auto stub = v1::Retrieval::NewStub(replica_channel_);
    while (!stop) {
      grpc::ClientContext context;
      v1::SearchResponse found;
      const grpc::Status status =
          stub->Search(&context, TextSearch("photos", "red"), &found);
      ASSERT_TRUE(status.ok()) << status.error_message();
      ASSERT_GE(found.hits_size(), seen.load());
      seen = found.hits_size();
    }
  });
  for (int i = 2; i <= 4; ++i) {
    Fill(i);
    clock->Advance(absl::Seconds(1));
    ASSERT_TRUE(CreateSnapshot("photos", absl::StrCat("s", i)).ok());
    ASSERT_TRUE(DeleteSnapshot("photos", absl::StrCat("s", i - 1)).ok());
    while (seen < i) std::this_thread::yield();
  }
  stop = true;
  searcher.join();
}

TEST_F(ReplicaCallsTest, RefusesEveryWriteByItsMode) {
  Fill(2);
  ASSERT_TRUE(CreateSnapshot("photos", "s").ok());
  StartReplica();
  channel_ = replica_channel_;
  std::vector<grpc::Status> refused;
  refused.push_back(Create("new"));
  refused.push_back(CreateSnapshot("photos", "t"));
  refused.push_back(DeleteSnapshot("photos", "s"));
  v1::Collection restored;
  refused.push_back(Restore("s", "again", &restored));
  v1::Snapshot imported;
  refused.push_back(Import("photos", "t", "x", &imported));
  grpc::Status status;
  Upsert({TextItem("photos", "x", "red")}, &status);
  refused.push_back(status);
  v1::DeleteItemsRequest request;
  request.set_collection("photos");
  request.add_ids("0");
  v1::DeleteItemsResponse response;
  refused.push_back(Call(v1::Items::NewStub(channel_), &v1::Items::Stub::Delete,
                         request, &response));
  v1::OptimizeCollectionRequest optimize;
  optimize.set_name("photos");
  v1::Job job;
  refused.push_back(Call(v1::Collections::NewStub(channel_), &Stub::Optimize,
                         optimize, &job));
  for (size_t i = 0; i < refused.size(); ++i) {
    EXPECT_EQ(refused[i].error_code(), grpc::StatusCode::FAILED_PRECONDITION)
        << i;
    EXPECT_THAT(refused[i].error_message(), HasSubstr("storage.replica_of"))
        << i;
  }
  // Reading goes on, snapshots included.
  v1::ListSnapshotsResponse listed;
  EXPECT_TRUE(ListSnapshots({}, &listed).ok());
  EXPECT_EQ(listed.snapshots_size(), 1);
  std::string tar;
  EXPECT_TRUE(Export("s", &tar).ok());
  EXPECT_FALSE(fs::exists("/nowhere"));
}

}  // namespace
}  // namespace quern
