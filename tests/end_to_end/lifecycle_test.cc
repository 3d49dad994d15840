// Starting, stopping, crashing and starting again, with the real server.

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/mount.h>
#include <sys/stat.h>

#include "tests/end_to_end/api.h"
#include "tests/support/pictures.h"
#include "tests/support/quernd_process.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kDimension = 64;

// The default package that scripts/setup made.
std::string ModelPath() {
  return absl::StrCat(std::getenv("QUERN_CACHE"), "/models/quern-lite");
}

// Different for each number, and recognisable.
std::vector<float> NumberedVector(int number) {
  std::vector<float> vector(kDimension, 0.01F);
  vector[number % kDimension] = 1;
  vector[(number / kDimension) % kDimension] += 0.5F;
  return vector;
}

TEST(LifecycleTest, ARestartKeepsEverything) {
  TemporaryDirectory data;
  const std::string red = EncodePng(PlainImage(32, 32, 220, 10, 10)).value();
  v1::SearchResponse before, after;
  {
    QuerndProcess server(data.path());
    ASSERT_TRUE(server.ready()) << server.Log();
    Api api(server);
    ASSERT_TRUE(api.CreateCollection("photos").ok());
    v1::UpsertRequest request = ImageUpsert("photos", "Bücher/赤.png", red);
    (*request.mutable_payload()->mutable_fields())["note"].set_string_value(
        "rot");
    ASSERT_EQ(api.UpsertOne(request).code(), 0);
    ASSERT_TRUE(api.Search(TextSearch("photos", "red"), &before).ok());
    EXPECT_EQ(server.Terminate(), 0) << server.Log();
  }
  QuerndProcess server(data.path());
  ASSERT_TRUE(server.ready()) << server.Log();
  Api api(server);
  ASSERT_TRUE(api.Search(TextSearch("photos", "red"), &after).ok());
  ASSERT_EQ(after.hits_size(), 1);
  EXPECT_EQ(after.hits(0).item().SerializeAsString(),
            before.hits(0).item().SerializeAsString());
  EXPECT_EQ(after.hits(0).item().id(), "Bücher/赤.png");
  EXPECT_FLOAT_EQ(after.hits(0).score(), before.hits(0).score());
}

TEST(LifecycleTest, ADeletedCollectionStaysDeletedAndItsNameIsFree) {
  TemporaryDirectory data;
  {
    QuerndProcess server(data.path());
    ASSERT_TRUE(server.ready()) << server.Log();
    Api api(server);
    ASSERT_TRUE(api.CreateCollection("c", kDimension).ok());
    ASSERT_EQ(
        api.UpsertOne(EmbeddingUpsert("c", "old", NumberedVector(1))).code(),
        0);
    v1::DeleteCollectionRequest request;
    request.set_name("c");
    v1::DeleteCollectionResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(v1::Collections::NewStub(api.channel())
                    ->Delete(&context, request, &response)
                    .ok());
    EXPECT_EQ(response.deleted_item_count(), 1);
    v1::Collection gone;
    EXPECT_EQ(api.GetCollection("c", &gone).error_code(),
              grpc::StatusCode::NOT_FOUND);
    ASSERT_TRUE(api.CreateCollection("c", kDimension).ok());
  }
  QuerndProcess server(data.path());
  ASSERT_TRUE(server.ready()) << server.Log();
  v1::Collection collection;
  ASSERT_TRUE(Api(server).GetCollection("c", &collection).ok());
  EXPECT_EQ(collection.status().item_count(), 0);
}

TEST(LifecycleTest, ACollectionThatCannotBeOpenedIsNamedAndTheOthersServe) {
  TemporaryDirectory data;
  {
    QuerndProcess server(data.path());
    ASSERT_TRUE(server.ready()) << server.Log();
    Api api(server);
    ASSERT_TRUE(api.CreateCollection("bad", kDimension).ok());
  }
  for (const auto& folder : fs::directory_iterator(data.File("collections"))) {
    std::ofstream(folder.path() / "collection.json") << "{\"name\": \"bad\",";
  }
  QuerndProcess server(data.path());
  ASSERT_TRUE(server.ready()) << server.Log();
  EXPECT_THAT(server.Log(),
              AllOf(HasSubstr("collection_failed"), HasSubstr("is damaged")));
  Api api(server);
  ASSERT_TRUE(api.CreateCollection("good", kDimension).ok());
  EXPECT_EQ(
      api.UpsertOne(EmbeddingUpsert("good", "a", NumberedVector(1))).code(), 0);
}

// The acknowledged items of a stream are all there after kill -9 in the middle
// of it; nothing else than what was sent is there.
TEST(LifecycleTest, KillInTheMiddleOfAnUpsertStreamLosesNothingAcknowledged) {
  TemporaryDirectory data;
  int acknowledged_total = 0;
  for (int round = 0; round < 5; ++round) {
    const std::string prefix = absl::StrCat("r", round, "-");
    const int wanted = 40 + 60 * round;
    int sent = 0, acknowledged = 0;
    {
      QuerndProcess server(data.path());
      ASSERT_TRUE(server.ready()) << server.Log();
      Api api(server);
      if (round == 0) {
        ASSERT_TRUE(api.CreateCollection("c", kDimension).ok());
      }
      grpc::ClientContext context;
      Api::SetDeadline(context);
      auto stream = v1::Items::NewStub(api.channel())->Upsert(&context);
      std::thread writer([&] {
        while (stream->Write(EmbeddingUpsert("c", absl::StrCat(prefix, sent),
                                             NumberedVector(sent)))) {
          ++sent;
        }
      });
      v1::UpsertResponse response;
      while (acknowledged < wanted && stream->Read(&response)) {
        ASSERT_EQ(response.status().code(), 0) << response.status().message();
        ASSERT_EQ(response.id(), absl::StrCat(prefix, acknowledged));
        ++acknowledged;
      }
      server.Kill();
      // What was acknowledged before the kill may still be on its way.
      while (stream->Read(&response)) ++acknowledged;
      writer.join();
      stream->Finish();
    }
    ASSERT_GE(acknowledged, wanted);
    acknowledged_total += acknowledged;

    QuerndProcess server(data.path());
    ASSERT_TRUE(server.ready()) << server.Log();
    Api api(server);
    auto items = v1::Items::NewStub(api.channel());
    for (int i = 0; i < acknowledged; ++i) {
      v1::GetItemRequest request;
      request.set_collection("c");
      request.set_id(absl::StrCat(prefix, i));
      request.mutable_read_mask()->add_paths("embedding");
      v1::Item item;
      grpc::ClientContext context;
      ASSERT_TRUE(items->Get(&context, request, &item).ok()) << i;
      const std::vector<float> expected = NumberedVector(i);
      ASSERT_EQ(item.embedding().values_size(), kDimension);
      for (int d = 0; d < kDimension; ++d) {
        ASSERT_EQ(item.embedding().values(d), expected[d]);
      }
    }
    v1::Collection collection;
    ASSERT_TRUE(api.GetCollection("c", &collection).ok());
    EXPECT_GE(collection.status().item_count(), acknowledged_total);
  }
}

TEST(LifecycleTest, TermWhileAStreamIsOpenEndsWithZero) {
  TemporaryDirectory data;
  QuerndProcess server(data.path(), {"--set", "server.drain_timeout=1s"});
  ASSERT_TRUE(server.ready()) << server.Log();
  Api api(server);
  ASSERT_TRUE(api.CreateCollection("c", kDimension).ok());
  grpc::ClientContext context;
  Api::SetDeadline(context);
  auto stream = v1::Items::NewStub(api.channel())->Upsert(&context);
  ASSERT_TRUE(stream->Write(EmbeddingUpsert("c", "a", NumberedVector(1))));
  v1::UpsertResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(server.Terminate(), 0) << server.Log();
  EXPECT_FALSE(stream->Finish().ok());
}

TEST(StartupTest, UnknownConfigurationKey) {
  TemporaryDirectory data;
  const std::string config = absl::StrCat(data.path(), "/quernd.yaml");
  std::ofstream(config) << "server:\n  adress: 127.0.0.1:0\n";
  QuerndProcess server(data.path(), {"--config", config});
  EXPECT_FALSE(server.ready());
  EXPECT_EQ(server.Wait(), 2);
  EXPECT_THAT(server.Log(),
              AllOf(HasSubstr("quernd.yaml:2"), HasSubstr("server.adress")));
}

TEST(StartupTest, PortInUse) {
  TemporaryDirectory data, other;
  QuerndProcess first(data.path());
  ASSERT_TRUE(first.ready()) << first.Log();
  QuerndProcess second(other.path(), {"--set", absl::StrCat("server.address=",
                                                            first.address())});
  EXPECT_FALSE(second.ready());
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_THAT(second.Log(), HasSubstr(first.address()));
}

TEST(StartupTest, DataFolderInUse) {
  TemporaryDirectory data;
  QuerndProcess first(data.path());
  ASSERT_TRUE(first.ready()) << first.Log();
  QuerndProcess second(data.path());
  EXPECT_FALSE(second.ready());
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_THAT(second.Log(), HasSubstr(data.path()));
  EXPECT_THAT(second.Log(), HasSubstr("in use"));
}

TEST(StartupTest, DataFolderThatCannotBeWritten) {
  // A file in its place is refused whoever asks, root included.
  TemporaryDirectory scratch;
  const std::string file = absl::StrCat(scratch.path(), "/file");
  std::ofstream(file) << "x";
  QuerndProcess on_file(file);
  EXPECT_FALSE(on_file.ready());
  EXPECT_EQ(on_file.Wait(), 1);
  EXPECT_THAT(on_file.Log(), HasSubstr(file));

  // procfs takes no folders, not even root's.
  QuerndProcess on_proc("/proc/quern");
  EXPECT_FALSE(on_proc.ready());
  EXPECT_EQ(on_proc.Wait(), 1);
  EXPECT_THAT(on_proc.Log(), HasSubstr("/proc"));
}

TEST(StartupTest, MissingModelPackage) {
  TemporaryDirectory data;
  QuerndProcess server(data.path(), {"--set", "models.paths=[/nowhere/model]"});
  EXPECT_FALSE(server.ready());
  EXPECT_EQ(server.Wait(), 1);
  EXPECT_THAT(server.Log(),
              AllOf(HasSubstr("/nowhere/model"), HasSubstr("scripts/setup")));
}

TEST(StartupTest, DamagedModelPackage) {
  TemporaryDirectory data, models;
  const std::string copy = absl::StrCat(models.path(), "/quern-lite");
  fs::copy(ModelPath(), copy, fs::copy_options::recursive);
  fs::resize_file(absl::StrCat(copy, "/image.ts"),
                  fs::file_size(absl::StrCat(copy, "/image.ts")) / 2);
  QuerndProcess server(data.path(),
                       {"--set", absl::StrCat("models.paths=[", copy, "]")});
  EXPECT_FALSE(server.ready());
  EXPECT_EQ(server.Wait(), 1);
  EXPECT_THAT(server.Log(), HasSubstr("image.ts"));
}

// A package whose content changed is another model: its collections refuse
// text.
TEST(StartupTest, AnotherModelOfTheSameName) {
  TemporaryDirectory data, models;
  {
    QuerndProcess server(data.path());
    ASSERT_TRUE(server.ready()) << server.Log();
    ASSERT_TRUE(Api(server).CreateCollection("photos").ok());
  }
  const std::string copy = absl::StrCat(models.path(), "/quern-lite");
  fs::copy(ModelPath(), copy, fs::copy_options::recursive);
  std::ofstream(absl::StrCat(copy, "/model.json"), std::ios::app) << "\n";
  QuerndProcess server(data.path(),
                       {"--set", absl::StrCat("models.paths=[", copy, "]")});
  ASSERT_TRUE(server.ready()) << server.Log();
  v1::SearchResponse response;
  const grpc::Status status =
      Api(server).Search(TextSearch("photos", "red"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("index the collection again"));
}

// A file system of six megabytes, filled by upserts.
TEST(DiskTest, AFullDiskRefusesWritesKeepsReadsAndLosesNothing) {
  TemporaryDirectory mount_point;
  if (mount("tmpfs", mount_point.path().c_str(), "tmpfs", 0, "size=6m") != 0) {
    GTEST_SKIP() << "cannot mount a small file system: " << strerror(errno);
  }
  const absl::Cleanup unmount = [&mount_point] {
    umount2(mount_point.path().c_str(), MNT_DETACH);
  };
  int acknowledged = 0;
  {
    QuerndProcess server(mount_point.path());
    ASSERT_TRUE(server.ready()) << server.Log();
    Api api(server);
    ASSERT_TRUE(api.CreateCollection("c", kDimension).ok());
    google::rpc::Status refused;
    while (refused.code() == 0 && acknowledged < 2000) {
      v1::UpsertRequest request = EmbeddingUpsert(
          "c", absl::StrCat(acknowledged), NumberedVector(acknowledged));
      (*request.mutable_payload()->mutable_fields())["x"].set_string_value(
          std::string(30'000, static_cast<char>('a' + acknowledged % 26)));
      refused = api.UpsertOne(request);
      if (refused.code() == 0) ++acknowledged;
    }
    EXPECT_EQ(refused.code(), grpc::StatusCode::RESOURCE_EXHAUSTED)
        << refused.message();
    EXPECT_THAT(refused.message(), HasSubstr("disk is full"));
    v1::SearchResponse response;
    EXPECT_TRUE(
        api.Search(EmbeddingSearch("c", NumberedVector(3)), &response).ok());
    EXPECT_GE(response.hits_size(), 1);
    server.Terminate();
  }
  QuerndProcess server(mount_point.path());
  ASSERT_TRUE(server.ready()) << server.Log();
  Api api(server);
  for (int i = 0; i < acknowledged; ++i) {
    v1::GetItemRequest request;
    request.set_collection("c");
    request.set_id(absl::StrCat(i));
    v1::Item item;
    grpc::ClientContext context;
    EXPECT_TRUE(
        v1::Items::NewStub(api.channel())->Get(&context, request, &item).ok())
        << i;
  }
  server.Terminate();
}

}  // namespace
}  // namespace quern
