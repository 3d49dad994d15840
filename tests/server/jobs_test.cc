// Background jobs over the wire.

#include <string>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/server/server_fixture.h"

namespace quern {
namespace {

using ::testing::HasSubstr;
using Stub = v1::Collections::Stub;

class JobCallsTest : public ServerTest {
 protected:
  void SetUp() override {
    optimize_gate_ = &at_work_;
    StartServer();
    ASSERT_TRUE(Create("photos").ok());
  }

  grpc::Status Optimize(const std::string& name, v1::Job* job) {
    v1::OptimizeCollectionRequest request;
    request.set_name(name);
    return Call(v1::Collections::NewStub(channel_), &Stub::Optimize, request,
                job);
  }

  grpc::Status GetJob(const std::string& id, v1::Job* job) {
    v1::GetJobRequest request;
    request.set_id(id);
    return Call(v1::Collections::NewStub(channel_), &Stub::GetJob, request,
                job);
  }

  v1::Job AwaitEnd(const std::string& id) {
    v1::Job job;
    do {
      absl::SleepFor(absl::Milliseconds(1));
      const grpc::Status status = GetJob(id, &job);
      EXPECT_TRUE(status.ok()) << status.error_message();
      if (!status.ok()) break;
    } while (!job.has_end_time());
    return job;
  }

  v1::Collection Get(const std::string& name) {
    v1::GetCollectionRequest request;
    request.set_name(name);
    v1::Collection collection;
    EXPECT_TRUE(Call(v1::Collections::NewStub(channel_), &Stub::Get, request,
                     &collection)
                    .ok());
    return collection;
  }

  grpc::Status Delete(const std::string& name) {
    v1::DeleteCollectionRequest request;
    request.set_name(name);
    v1::DeleteCollectionResponse response;
    return Call(v1::Collections::NewStub(channel_), &Stub::Delete, request,
                &response);
  }

  Gate at_work_;
};

TEST_F(JobCallsTest, OptimizeIsFollowedToItsEnd) {
  v1::Job begun;
  ASSERT_TRUE(Optimize("photos", &begun).ok());
  at_work_.reached.WaitForNotification();
  v1::Job again;
  ASSERT_TRUE(Optimize("photos", &again).ok());
  EXPECT_EQ(again.id(), begun.id());
  EXPECT_EQ(again.state(), v1::Job::STATE_RUNNING);
  const v1::Collection busy = Get("photos");
  ASSERT_EQ(busy.status().jobs_size(), 1);
  EXPECT_EQ(busy.status().jobs(0).SerializeAsString(),
            again.SerializeAsString());
  v1::ListCollectionsResponse listed;
  ASSERT_TRUE(Call(v1::Collections::NewStub(channel_), &Stub::List,
                   v1::ListCollectionsRequest(), &listed)
                  .ok());
  EXPECT_EQ(listed.collections(0).status().jobs_size(), 1);

  clock_->Advance(absl::Seconds(5));
  at_work_.open.Notify();
  const v1::Job ended = AwaitEnd(begun.id());
  EXPECT_EQ(ended.state(), v1::Job::STATE_SUCCEEDED);
  EXPECT_EQ(ended.end_time().seconds() - ended.start_time().seconds(), 5);
  EXPECT_EQ(Get("photos").status().jobs_size(), 0);
}

TEST_F(JobCallsTest, WhatIsNotThere) {
  v1::Job job;
  EXPECT_EQ(Optimize("nothing", &job).error_code(),
            grpc::StatusCode::NOT_FOUND);
  const grpc::Status unknown = GetJob("f00d", &job);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(unknown.error_message(), HasSubstr("f00d"));
  const grpc::Status nameless = Optimize("", &job);
  EXPECT_EQ(nameless.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ViolatedField(nameless.error_details()), "name");
  EXPECT_EQ(ViolatedField(GetJob("", &job).error_details()), "id");
}

TEST_F(JobCallsTest, DeletingTheCollectionEndsItsJob) {
  v1::Job job;
  ASSERT_TRUE(Optimize("photos", &job).ok());
  at_work_.reached.WaitForNotification();
  ASSERT_TRUE(Delete("photos").ok());
  ASSERT_TRUE(Create("photos").ok());
  // It is no job of the new one.
  EXPECT_EQ(Get("photos").status().jobs_size(), 0);
  const v1::Job ended = AwaitEnd(job.id());
  EXPECT_EQ(ended.state(), v1::Job::STATE_FAILED);
  EXPECT_THAT(ended.message(), HasSubstr("deleted"));
}

// The gate never opens.
TEST_F(JobCallsTest, AShutdownDoesNotWaitForAJob) {
  v1::Job job;
  ASSERT_TRUE(Optimize("photos", &job).ok());
  at_work_.reached.WaitForNotification();
  server_.reset();
  EXPECT_FALSE(at_work_.open.HasBeenNotified());
}

TEST_F(JobCallsTest, ACollectionThatTakesNoWritesIsNotOptimized) {
  server_.reset();
  Backends backends = MakeBackends();
  backends.collections.open_store =
      [open = backends.collections.open_read_only](
          const std::string& path, const v1::Collection& record) {
        return open(path, record, "the disk is full");
      };
  server_ = ValueOrDie(Server::Create(config_, std::move(backends)));
  channel_ = grpc::CreateChannel(server_->address(),
                                 grpc::InsecureChannelCredentials());
  v1::Job job;
  const grpc::Status refused = Optimize("photos", &job);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.error_message(), HasSubstr("the disk is full"));
}

}  // namespace
}  // namespace quern
