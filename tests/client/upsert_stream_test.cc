#include "client/cpp/upsert_stream.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "tests/client/fake_server.h"

namespace quern {
namespace {

using testing::ElementsAre;

v1::UpsertRequest Picture(const std::string& id, const std::string& content) {
  v1::UpsertRequest request;
  request.set_id(id);
  request.mutable_image()->set_content(content);
  return request;
}

class UpsertStreamTest : public testing::Test {
 protected:
  UpsertStreamTest() {
    ClientOptions options;
    options.address = server_.address();
    client_ = *Client::Create(options);
    server_.AddCollection("photos");
  }

  std::unique_ptr<UpsertStream> Open(UpsertStreamOptions options) {
    return client_->Upsert("photos", options,
                           [this](const v1::UpsertResponse& result) {
                             results_.push_back(result);
                           });
  }

  FakeServer server_;
  std::unique_ptr<Client> client_;
  std::vector<v1::UpsertResponse> results_;  // Complete after Finish().
};

TEST_F(UpsertStreamTest, EveryItemGetsItsResultInOrder) {
  for (const int window : {1, 3, 100}) {
    results_.clear();
    const auto stream = Open({.window = window});
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(stream->Write(Picture(absl::StrCat(i), "dog")).ok());
    }
    ASSERT_TRUE(stream->Finish().ok());
    ASSERT_EQ(results_.size(), 20);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(results_[i].id(), absl::StrCat(i));
  }
  EXPECT_EQ(server_.ItemIds("photos").size(), 20);
}

TEST_F(UpsertStreamTest, ABadItemFailsAlone) {
  const auto stream = Open({});
  ASSERT_TRUE(stream->Write(Picture("a", "dog")).ok());
  ASSERT_TRUE(stream->Write(Picture("b", "BROKEN")).ok());
  ASSERT_TRUE(stream->Write(Picture("c", "cat")).ok());
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(results_.size(), 3);
  EXPECT_EQ(results_[1].status().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(server_.ItemIds("photos"), ElementsAre("a", "c"));
}

TEST_F(UpsertStreamTest, AnEmptyStreamIsFine) {
  EXPECT_TRUE(Open({})->Finish().ok());
}

TEST_F(UpsertStreamTest, ABrokenStreamSaysSo) {
  server_.BreakUpsertAfter(2);
  const auto stream = Open({.window = 1});
  absl::Status status;
  for (int i = 0; i < 10 && status.ok(); ++i) {
    status = stream->Write(Picture(absl::StrCat(i), "dog"));
  }
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(absl::IsUnavailable(stream->Finish()));
  EXPECT_EQ(results_.size(), 2);
}

TEST_F(UpsertStreamTest, AStalledServerIsGivenUp) {
  server_.StallUpserts();
  const auto stream =
      Open({.window = 1, .stall_timeout = absl::Milliseconds(20)});
  ASSERT_TRUE(stream->Write(Picture("a", "dog")).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(stream->Write(Picture("b", "dog"))));
  EXPECT_TRUE(absl::IsDeadlineExceeded(stream->Finish()));
}

TEST_F(UpsertStreamTest, ShutdownOfTheClientEndsIt) {
  server_.StallUpserts();
  const auto stream = Open({});
  ASSERT_TRUE(stream->Write(Picture("a", "dog")).ok());
  client_->Shutdown();
  EXPECT_TRUE(absl::IsCancelled(stream->Finish()));
}

TEST_F(UpsertStreamTest, DestroyingItCancelsIt) {
  server_.StallUpserts();
  const auto stream = Open({});
  ASSERT_TRUE(stream->Write(Picture("a", "dog")).ok());
}

}  // namespace
}  // namespace quern
