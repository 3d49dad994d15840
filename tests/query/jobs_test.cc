#include "engine/query/jobs.h"

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/status_macros.h"
#include "tests/query/fake_collection.h"
#include "tests/support/gated_vector_index.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class JobsTest : public ::testing::Test {
 protected:
  // Its Optimize() stands at the gate of its name.
  std::shared_ptr<Collection> Make(const std::string& name) {
    CollectionFactories factories = disk_.Factories();
    factories.create_index = [gate = &gates_[name]](
                                 const v1::Collection& record,
                                 const std::string& /*directory*/,
                                 ItemStore* /*store*/)
        -> absl::StatusOr<std::unique_ptr<VectorIndex>> {
      return std::make_unique<GatedVectorIndex>(record.dimension(), gate);
    };
    const std::string directory = directory_.File(name);
    std::filesystem::create_directory(directory);
    return ValueOrDie(Collection::Open(directory, Record(name, 2), factories));
  }

  v1::Job AwaitEnd(const Jobs& jobs, const std::string& id) {
    while (true) {
      v1::Job job = ValueOrDie(jobs.Get(id));
      if (job.has_end_time()) return job;
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  const TemporaryDirectory directory_;
  FakeDisk disk_;
  std::map<std::string, Gate> gates_;
  FakeClock clock_{absl::FromUnixSeconds(1000)};
};

TEST_F(JobsTest, AJobRunsAndKeepsItsTimes) {
  Jobs jobs({.clock = &clock_});
  const auto collection = Make("a");
  const v1::Job begun = ValueOrDie(jobs.Optimize(collection));
  EXPECT_EQ(begun.kind(), "optimize");
  EXPECT_EQ(begun.collection(), "a");
  EXPECT_FALSE(begun.has_end_time());
  gates_["a"].reached.WaitForNotification();
  v1::Job running = ValueOrDie(jobs.Get(begun.id()));
  EXPECT_EQ(running.state(), v1::Job::STATE_RUNNING);
  EXPECT_EQ(running.progress(), 0.5F);
  EXPECT_EQ(running.start_time().seconds(), 1000);
  EXPECT_THAT(jobs.Unfinished("a"), SizeIs(1));
  EXPECT_THAT(jobs.Unfinished("b"), IsEmpty());

  clock_.Advance(absl::Seconds(7));
  gates_["a"].open.Notify();
  const v1::Job ended = AwaitEnd(jobs, begun.id());
  EXPECT_EQ(ended.state(), v1::Job::STATE_SUCCEEDED);
  EXPECT_EQ(ended.progress(), 1);
  EXPECT_EQ(ended.start_time().seconds(), 1000);
  EXPECT_EQ(ended.end_time().seconds(), 1007);
  EXPECT_THAT(jobs.Unfinished("a"), IsEmpty());
  // The next one is another one.
  EXPECT_NE(ValueOrDie(jobs.Optimize(collection)).id(), begun.id());
}

TEST_F(JobsTest, OneUnfinishedJobPerCollection) {
  Jobs jobs({.clock = &clock_});
  const auto first = Make("a");
  const auto second = Make("b");
  const std::string running = ValueOrDie(jobs.Optimize(first)).id();
  gates_["a"].reached.WaitForNotification();
  const v1::Job waiting = ValueOrDie(jobs.Optimize(second));
  EXPECT_EQ(waiting.state(), v1::Job::STATE_PENDING);
  EXPECT_FALSE(waiting.has_start_time());
  EXPECT_EQ(ValueOrDie(jobs.Optimize(first)).id(), running);
  EXPECT_EQ(ValueOrDie(jobs.Optimize(second)).id(), waiting.id());
  gates_["b"].open.Notify();
  gates_["a"].open.Notify();
  EXPECT_EQ(AwaitEnd(jobs, waiting.id()).state(), v1::Job::STATE_SUCCEEDED);
}

TEST_F(JobsTest, DroppingACollectionEndsItsJobsAndReleasesItsFiles) {
  Jobs jobs({.clock = &clock_});
  auto running = Make("a");
  auto waiting = Make("b");
  const std::string running_id = ValueOrDie(jobs.Optimize(running)).id();
  gates_["a"].reached.WaitForNotification();
  const std::string waiting_id = ValueOrDie(jobs.Optimize(waiting)).id();

  waiting->Drop();
  EXPECT_THAT(jobs.Unfinished("b"), IsEmpty());
  jobs.EndDropped();
  const v1::Job ended = ValueOrDie(jobs.Get(waiting_id));
  EXPECT_EQ(ended.state(), v1::Job::STATE_FAILED);
  EXPECT_THAT(ended.message(), HasSubstr("deleted"));
  EXPECT_FALSE(ended.has_start_time());
  EXPECT_EQ(waiting.use_count(), 1);
  EXPECT_THAT(jobs.Optimize(waiting), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(ValueOrDie(jobs.Get(running_id)).state(), v1::Job::STATE_RUNNING);

  running->Drop();
  jobs.EndDropped();
  const v1::Job stopped = AwaitEnd(jobs, running_id);
  EXPECT_EQ(stopped.state(), v1::Job::STATE_FAILED);
  EXPECT_EQ(stopped.progress(), 0.5F);
  EXPECT_THAT(stopped.message(), HasSubstr("deleted"));
}

TEST_F(JobsTest, ClosingEndsAllJobsAndTakesNoMore) {
  Jobs jobs({.clock = &clock_});
  const auto first = Make("a");
  const auto second = Make("b");
  const std::string running = ValueOrDie(jobs.Optimize(first)).id();
  gates_["a"].reached.WaitForNotification();
  const std::string waiting = ValueOrDie(jobs.Optimize(second)).id();
  jobs.Close();
  for (const std::string& id : {running, waiting}) {
    const v1::Job job = AwaitEnd(jobs, id);
    EXPECT_EQ(job.state(), v1::Job::STATE_FAILED);
    EXPECT_THAT(job.message(), HasSubstr("shut down"));
  }
  EXPECT_THAT(jobs.Optimize(first), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(JobsTest, TheTableIsBoundedAndIdsAreUnique) {
  Jobs jobs({.clock = &clock_, .max_jobs = 2});
  const auto a = Make("a");
  const auto b = Make("b");
  const auto c = Make("c");
  gates_["c"].open.Notify();
  const std::string first = ValueOrDie(jobs.Optimize(a)).id();
  gates_["a"].reached.WaitForNotification();
  const std::string second = ValueOrDie(jobs.Optimize(b)).id();
  EXPECT_THAT(jobs.Optimize(c), StatusIs(absl::StatusCode::kResourceExhausted));
  gates_["a"].open.Notify();
  EXPECT_EQ(AwaitEnd(jobs, first).state(), v1::Job::STATE_SUCCEEDED);
  const std::string third = ValueOrDie(jobs.Optimize(c)).id();
  EXPECT_EQ(std::set<std::string>({first, second, third}).size(), 3U);
  EXPECT_THAT(jobs.Get(first), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(jobs.Get(second), IsOk());
  gates_["b"].open.Notify();
  EXPECT_EQ(AwaitEnd(jobs, third).state(), v1::Job::STATE_SUCCEEDED);
}

// A reindex takes hours: what it does not touch need not wait for it.
TEST_F(JobsTest, KindsRunSideBySideButNotOnOneCollection) {
  Jobs jobs({.clock = &clock_});
  const auto a = Make("a");
  const auto b = Make("b");
  const auto reindex = [](const std::string& model) {
    return JobWork{
        .kind = JobKind::kReindex,
        .subject = model,
        .doing = "begins",
        .run = [](RequestContext&,
                  const JobReport& report) -> absl::StatusOr<std::string> {
          report(0.5F, "goes on");
          return "done with it";
        }};
  };
  const std::string optimize = ValueOrDie(jobs.Optimize(a)).id();
  gates_["a"].reached.WaitForNotification();
  EXPECT_THAT(jobs.Start(a, reindex("m")),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr(optimize + "\" (optimize)")));
  const v1::Job ended =
      AwaitEnd(jobs, ValueOrDie(jobs.Start(b, reindex("m"))).id());
  EXPECT_EQ(ended.kind(), "reindex");
  EXPECT_EQ(ended.state(), v1::Job::STATE_SUCCEEDED);
  EXPECT_EQ(ended.message(), "done with it");
  EXPECT_EQ(ValueOrDie(jobs.Get(optimize)).state(), v1::Job::STATE_RUNNING);

  // One of the same kind with another model is another job.
  absl::Notification open;
  JobWork stands = reindex("m");
  stands.run = [&open](RequestContext& context,
                       const JobReport& report) -> absl::StatusOr<std::string> {
    report(0.25F, "stands");
    open.WaitForNotification();
    QUERN_RETURN_IF_ERROR(context.Check("reindex"));
    return absl::DataLossError("a bad block");
  };
  const std::string standing = ValueOrDie(jobs.Start(b, stands)).id();
  EXPECT_EQ(ValueOrDie(jobs.Start(b, reindex("m"))).id(), standing);
  EXPECT_THAT(jobs.Start(b, reindex("n")),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("(reindex with m)")));
  EXPECT_THAT(jobs.Optimize(b),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  open.Notify();
  const v1::Job failed = AwaitEnd(jobs, standing);
  EXPECT_EQ(failed.state(), v1::Job::STATE_FAILED);
  EXPECT_EQ(failed.message(), "a bad block");
  EXPECT_EQ(failed.progress(), 0.25F);
  gates_["a"].open.Notify();
  EXPECT_EQ(AwaitEnd(jobs, optimize).state(), v1::Job::STATE_SUCCEEDED);
}

}  // namespace
}  // namespace quern
