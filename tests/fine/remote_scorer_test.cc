#include "engine/fine/remote_scorer.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "quern/v1/embedding.grpc.pb.h"
#include "tests/support/scoring_server.h"
#include "tests/support/status_matchers.h"

// Against real servers of gRPC that misbehave.

namespace quern {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using State = CircuitBreaker::State;

// Where a test waits for something that must come; only a hang reaches it.
constexpr absl::Duration kLong = absl::Seconds(60);

class RemoteScorerTest : public testing::Test {
 protected:
  RemoteScorerTest() {
    request_.query.embedding = {1, 0};
    request_.query.text = "a cat";
    for (const char* id : {"a", "b"}) {
      request_.candidates.push_back({.id = id, .embedding = {0, 1}});
    }
  }

  // A video of ten seconds.
  void AddVideo() {
    PartFeatures parts;
    parts.shape = {.frames = 1, .duration = absl::Seconds(10)};
    parts.times = {absl::ZeroDuration()};
    parts.samples = {1};
    parts.features = {.rows = 1, .columns = 2, .values = {1, 0}, .scales = {1}};
    request_.candidates.front().parts = parts;
  }

  void Connect(const std::vector<const ScoringServer*>& servers,
               RemoteScorerOptions options = {}) {
    for (const ScoringServer* server : servers) {
      options.endpoints.push_back(server->address());
    }
    options.observe = [this](const RemoteCall& call) {
      absl::MutexLock lock(&mutex_);
      calls_.push_back(call);
    };
    scorer_ = ValueOrDie(RemoteScorer::Create(std::move(options)));
  }

  absl::StatusOr<std::vector<CandidateScore>> Score(
      absl::Duration timeout = kLong) {
    const RequestContext context(&clock_, "test", clock_.Now() + timeout);
    return scorer_->Score(context, request_);
  }

  // The scores' numbers.
  std::vector<float> Numbers(absl::Duration timeout = kLong) {
    std::vector<float> numbers;
    for (const CandidateScore& score : ValueOrDie(Score(timeout))) {
      numbers.push_back(score.score);
    }
    return numbers;
  }

  std::vector<absl::StatusCode> Codes() {
    absl::MutexLock lock(&mutex_);
    std::vector<absl::StatusCode> codes;
    for (const RemoteCall& call : calls_) codes.push_back(call.code);
    return codes;
  }

  // Scores until `is_there`, which calls and time bring nearer.
  void ScoreUntil(const std::function<bool()>& is_there) {
    const absl::Time end = absl::Now() + kLong;
    while (!is_there() && absl::Now() < end) {
      static_cast<void>(Score().status());
      absl::SleepFor(absl::Milliseconds(1));
    }
    ASSERT_TRUE(is_there());
  }
  void ScoreUntil(State state) {
    ScoreUntil([&] { return scorer_->states()[0].breaker == state; });
  }

  RealClock clock_;
  ScoreRequest request_;
  std::unique_ptr<RemoteScorer> scorer_;
  absl::Mutex mutex_;
  std::vector<RemoteCall> calls_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(RemoteScorerTest, SendsWhatIsNeededAndTakesTheAnswer) {
  v1::ScoreRequest seen;
  ScoringServer server([&](grpc::ServerContext*,
                           const v1::ScoreRequest& request,
                           v1::ScoreResponse* response) {
    seen = request;
    v1::CandidateScore& first = *response->add_scores();
    first.set_id("a");
    first.set_score(3);
    first.set_probability(0.25F);
    v1::Evidence& evidence = *first.add_evidence();
    evidence.set_score(2);
    evidence.mutable_box()->set_left(0.25F);
    evidence.mutable_box()->set_right(0.5F);
    v1::CandidateScore& second = *response->add_scores();
    second.set_id("b");
    second.mutable_status()->set_code(grpc::StatusCode::INVALID_ARGUMENT);
    second.mutable_status()->set_message("it is blank");
    return grpc::Status::OK;
  });
  v1::ScorerDescription description = server.description();
  description.set_max_candidates(50);
  server.SetDescription(description);
  Connect({&server});
  request_.candidates[0].media = "not asked for";
  const auto scores = ValueOrDie(Score());
  EXPECT_EQ(scores[0].score, 3);
  EXPECT_EQ(scores[0].probability, 0.25F);
  ASSERT_EQ(scores[0].evidence.size(), 1u);
  EXPECT_EQ(scores[0].evidence[0].box->right, 0.5F);
  EXPECT_THAT(scores[1].status, StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("it is blank")));
  EXPECT_EQ(seen.query().text(), "a cat");
  EXPECT_THAT(seen.query().embedding().values(), ElementsAre(1, 0));
  EXPECT_FALSE(seen.candidates(0).has_media());
  const RequestContext context(&clock_, "test");
  EXPECT_EQ(ValueOrDie(scorer_->Describe(context)).max_candidates, 50);
  EXPECT_THAT(Codes(), ElementsAre(absl::StatusCode::kOk));
}

TEST_F(RemoteScorerTest, TakesNoNonsense) {
  AddVideo();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  using Change = std::function<void(v1::ScoreResponse*)>;
  const auto with_box = [](float left, float top, float right, float bottom) {
    return [=](v1::ScoreResponse* response) {
      v1::Box& box =
          *response->mutable_scores(1)->add_evidence()->mutable_box();
      box.set_left(left);
      box.set_top(top);
      box.set_right(right);
      box.set_bottom(bottom);
    };
  };
  const auto with_span = [](int64_t start, int64_t end, int32_t nanos = 0) {
    return [=](v1::ScoreResponse* response) {
      v1::TimeSpan& span =
          *response->mutable_scores(0)->add_evidence()->mutable_span();
      span.mutable_start()->set_seconds(start);
      span.mutable_end()->set_seconds(end);
      span.mutable_end()->set_nanos(nanos);
    };
  };
  struct Case {
    std::string name;
    Change change;
  };
  const std::vector<Case> cases = {
      {"scores[1].score",
       [=](v1::ScoreResponse* r) { r->mutable_scores(1)->set_score(nan); }},
      {"scores[1].score",
       [=](v1::ScoreResponse* r) {
         r->mutable_scores(1)->set_score(infinity);
       }},
      {"scores[0].probability",
       [=](v1::ScoreResponse* r) {
         r->mutable_scores(0)->set_probability(nan);
       }},
      {"scores[0].probability",
       [=](v1::ScoreResponse* r) {
         r->mutable_scores(0)->set_probability(1.5F);
       }},
      {"scores has 1 entries for 2",
       [](v1::ScoreResponse* r) { r->mutable_scores()->RemoveLast(); }},
      {"scores has 3 entries for 2",
       [](v1::ScoreResponse* r) { r->add_scores()->set_id("b"); }},
      {"scores has 0 entries", [](v1::ScoreResponse* r) { r->Clear(); }},
      {"scores[0].id",
       [](v1::ScoreResponse* r) { r->mutable_scores()->SwapElements(0, 1); }},
      {"scores[1].id",
       [](v1::ScoreResponse* r) { r->mutable_scores(1)->set_id("another"); }},
      {"scores[0].status.code",
       [](v1::ScoreResponse* r) {
         r->mutable_scores(0)->mutable_status()->set_code(99);
       }},
      {"scores[1].evidence[0].box", with_box(0, 0, 1.1F, 1)},
      {"scores[1].evidence[0].box", with_box(-0.1F, 0, 1, 1)},
      {"scores[1].evidence[0].box", with_box(0, nan, 1, 1)},
      {"scores[1].evidence[0].box", with_box(0.6F, 0, 0.4F, 1)},
      {"scores[1].evidence[0].box", with_box(0, 0.6F, 1, 0.4F)},
      {"scores[1].evidence[0].score",
       [=](v1::ScoreResponse* r) {
         r->mutable_scores(1)->add_evidence()->set_score(nan);
       }},
      {"scores[0].evidence[0].span", with_span(0, 11)},
      {"scores[0].evidence[0].span", with_span(5, 4)},
      {"scores[0].evidence[0].span", with_span(-1, 4)},
      {"scores[0].evidence[0].span", with_span(0, 4, -1)},
      {"scores[0].evidence[0].span", with_span(0, 4, 2'000'000'000)},
      {"scores[0].evidence",
       [](v1::ScoreResponse* r) {
         r->mutable_scores(0)->add_evidence();
         r->mutable_scores(0)->add_evidence();
       }},
  };
  ScoringServer server(ScoringServer::Good(1));
  for (const Case& one : cases) {
    Connect({&server});
    server.SetAnswer(ScoringServer::Spoilt(one.change));
    EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kDataLoss,
                                  AllOf(HasSubstr(one.name),
                                        HasSubstr(server.address()))));
  }
  EXPECT_THAT(Codes(), Each(absl::StatusCode::kDataLoss));
  // Two that are not.
  for (const Change& change :
       {Change(with_box(0, 0, 1, 1)), Change(with_span(0, 10))}) {
    Connect({&server});
    server.SetAnswer(ScoringServer::Spoilt(change));
    EXPECT_THAT(Score(), IsOk());
  }
}

TEST_F(RemoteScorerTest, SilenceEndsWithTheDeadline) {
  ScoringServer server(ScoringServer::Good(1));
  Connect({&server});
  EXPECT_THAT(Score(), IsOk());
  server.SetAnswer(server.Silence());
  EXPECT_THAT(Score(absl::Milliseconds(300)),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr(server.address())));
  EXPECT_THAT(Codes(), ElementsAre(absl::StatusCode::kOk,
                                   absl::StatusCode::kDeadlineExceeded));
}

TEST_F(RemoteScorerTest, EndsWhenTheCallerHasGone) {
  ScoringServer server(ScoringServer::Good(1));
  Connect({&server});
  RequestContext context(&clock_, "test");
  server.SetAnswer([&](grpc::ServerContext* call, const v1::ScoreRequest& r,
                       v1::ScoreResponse* response) {
    context.Cancel();
    return server.Silence()(call, r, response);
  });
  EXPECT_THAT(scorer_->Score(context, request_),
              StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(RemoteScorerTest, AnAnswerThatIsTooLongIsNotRead) {
  ScoringServer server(ScoringServer::Spoilt([](v1::ScoreResponse* response) {
    response->set_scorer(std::string(1 << 20, 'x'));
  }));
  Connect({&server}, {.max_message_bytes = 64 << 10});
  EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr(server.address())));
}

TEST_F(RemoteScorerTest, ARequestThatIsTooLongIsNotSent) {
  ScoringServer server(ScoringServer::Good(1));
  Connect({&server}, {.max_message_bytes = 64 << 10});
  request_.query.text = std::string(100 << 10, 'x');
  EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kResourceExhausted,
                                HasSubstr("max_message_bytes")));
  EXPECT_EQ(server.requests(), 0);
}

TEST_F(RemoteScorerTest, TellsWhatTheScorerAnswered) {
  for (const grpc::StatusCode code :
       {grpc::StatusCode::UNIMPLEMENTED, grpc::StatusCode::INTERNAL,
        grpc::StatusCode::INVALID_ARGUMENT}) {
    ScoringServer server(ScoringServer::Failure(code, "out of\nplums"));
    Connect({&server});
    EXPECT_THAT(Score(), StatusIs(static_cast<absl::StatusCode>(code),
                                  HasSubstr("out of\\nplums")));
  }
}

// Answers Score() with bytes that are no message of it.
class GarbageServer final
    : public v1::Scoring::WithRawMethod_Score<v1::Scoring::Service> {
 public:
  GarbageServer() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(this);
    queue_ = builder.AddCompletionQueue();
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
    RequestScore(&context_, &request_, &writer_, queue_.get(), queue_.get(),
                 nullptr);
    thread_ = std::thread([this] {
      void* tag = nullptr;
      bool ok = false;
      if (!queue_->Next(&tag, &ok) || !ok) return;
      const grpc::Slice slice("\x0a\xff\xff\xff\xff no length is this");
      writer_.Finish(grpc::ByteBuffer(&slice, 1), grpc::Status::OK, nullptr);
      queue_->Next(&tag, &ok);
    });
  }
  ~GarbageServer() override {
    server_->Shutdown(std::chrono::system_clock::now());
    queue_->Shutdown();
    thread_.join();
    void* tag = nullptr;
    bool ok = false;
    while (queue_->Next(&tag, &ok)) {
    }
  }

  const std::string& address() const { return address_; }

 private:
  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeScorerRequest*,
                        v1::ScorerDescription* response) override {
    response->add_tasks(v1::SCORING_TASK_RERANK);
    return grpc::Status::OK;
  }

  grpc::ServerContext context_;
  grpc::ByteBuffer request_;
  grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> writer_{&context_};
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::thread thread_;
};

TEST_F(RemoteScorerTest, GarbageIsNoMessage) {
  const GarbageServer server;
  scorer_ = ValueOrDie(RemoteScorer::Create({.endpoints = {server.address()}}));
  EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kDataLoss,
                                HasSubstr("no message of the contract")));
}

TEST_F(RemoteScorerTest, AServerThatIsNoScorerIsNamed) {
  v1::Embedding::Service another;
  grpc::ServerBuilder builder;
  builder.RegisterService(&another);
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                           &port);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  scorer_ = ValueOrDie(
      RemoteScorer::Create({.endpoints = {absl::StrCat("127.0.0.1:", port)}}));
  EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kUnavailable,
                                AllOf(HasSubstr("UNIMPLEMENTED"),
                                      HasSubstr("Describe"))));
}

TEST_F(RemoteScorerTest, ADescriptionOfTheFutureIsRefused) {
  ScoringServer server(ScoringServer::Good(1));
  v1::ScorerDescription description = server.description();
  description.add_required_features(static_cast<v1::ScoringFeature>(77));
  server.SetDescription(description);
  Connect({&server});
  EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kUnavailable,
                                HasSubstr("required_features has 77")));
}

TEST_F(RemoteScorerTest, AsksOnlyWhoKnowsTheModel) {
  ScoringServer other(ScoringServer::Good(1));
  ScoringServer right(ScoringServer::Good(2));
  v1::ScorerDescription description = other.description();
  description.add_model_fingerprints("elsewhere");
  other.SetDescription(description);
  request_.model_fingerprint = "here";
  Connect({&other});
  EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                HasSubstr("here")));
  Connect({&other, &right});
  // The second may be met later than the first.
  while (Score().status().code() == absl::StatusCode::kFailedPrecondition) {
  }
  for (int i = 0; i < 4; ++i) EXPECT_THAT(Numbers(), ElementsAre(2, 2));
  EXPECT_EQ(other.requests(), 0);
}

TEST_F(RemoteScorerTest, AFailureIsAnsweredByAnother) {
  ScoringServer bad(ScoringServer::Failure(grpc::StatusCode::INTERNAL, "oh"));
  ScoringServer good(ScoringServer::Good(2));
  Connect({&bad, &good});
  // Until both are known.
  while (bad.requests() == 0) static_cast<void>(Score().status());
  while (good.requests() == 0) static_cast<void>(Score().status());
  for (int i = 0; i < 10; ++i) EXPECT_THAT(Numbers(), ElementsAre(2, 2));
  bad.Stop();
  for (int i = 0; i < 10; ++i) EXPECT_THAT(Numbers(), ElementsAre(2, 2));
}

TEST_F(RemoteScorerTest, ASlowOneIsOvertaken) {
  ScoringServer one(ScoringServer::Good(1));
  ScoringServer two(ScoringServer::Good(1));
  Connect({&one, &two}, {.hedge = {.min_latencies = 4,
                                   .longest = absl::Milliseconds(20),
                                   .burst = 10'000}});
  ScoreUntil([&] { return one.requests() >= 4 && two.requests() >= 4; });
  one.SetAnswer(one.Silence());
  two.SetAnswer(ScoringServer::Good(2));
  const auto has_call = [&](absl::StatusCode code, bool is_hedge) {
    absl::MutexLock lock(&mutex_);
    return std::any_of(calls_.begin(), calls_.end(), [&](const auto& call) {
      return call.endpoint == (is_hedge ? two : one).address() &&
             call.code == code && call.is_hedge == is_hedge;
    });
  };
  // Whichever is asked first.
  const absl::Time end = absl::Now() + kLong;
  do {
    EXPECT_THAT(Numbers(), ElementsAre(2, 2));
  } while (!(has_call(absl::StatusCode::kOk, true) &&
             has_call(absl::StatusCode::kCancelled, false)) &&
           absl::Now() < end);
  EXPECT_TRUE(has_call(absl::StatusCode::kOk, true));
  EXPECT_TRUE(has_call(absl::StatusCode::kCancelled, false));
}

TEST_F(RemoteScorerTest, OneThatFailsIsLeftAlone) {
  ScoringServer server(
      ScoringServer::Failure(grpc::StatusCode::INTERNAL, "oh"));
  Connect({&server},
          {.breaker = {.failures = 3, .first_pause = absl::Hours(1)}});
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kInternal));
  }
  EXPECT_EQ(scorer_->states()[0].breaker, State::kOpen);
  EXPECT_EQ(server.requests(), 3);
  EXPECT_THAT(Score(),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("no scorer is up"), HasSubstr("oh"))));
  EXPECT_EQ(server.requests(), 3);
}

TEST_F(RemoteScorerTest, OneThatFailsIsTriedAndTakenBack) {
  ScoringServer server(
      ScoringServer::Failure(grpc::StatusCode::INTERNAL, "oh"));
  Connect({&server}, {.breaker = {.failures = 1,
                                  .first_pause = absl::Milliseconds(1),
                                  .longest_pause = absl::Milliseconds(10)}});
  // Describe() answers, so each pause ends with a trial.
  ScoreUntil([&] { return server.requests() >= 5; });
  server.SetAnswer(ScoringServer::Good(1));
  ScoreUntil(State::kClosed);
  EXPECT_THAT(Numbers(), ElementsAre(1, 1));
}

TEST_F(RemoteScorerTest, OneThatIsKilledAndStartedAgainIsFoundAgain) {
  ScoringServer server(ScoringServer::Good(1));
  Connect({&server}, {.breaker = {.first_pause = absl::Milliseconds(5),
                                  .longest_pause = absl::Milliseconds(50)}});
  EXPECT_THAT(Score(), IsOk());
  server.Stop();
  EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kUnavailable));
  ScoreUntil(State::kOpen);
  server.Restart();
  ScoreUntil(State::kClosed);
  EXPECT_THAT(Numbers(), ElementsAre(1, 1));
}

TEST_F(RemoteScorerTest, WhatTheRequestIsToBlameForOpensNothing) {
  ScoringServer server(
      ScoringServer::Failure(grpc::StatusCode::INVALID_ARGUMENT, "no"));
  Connect({&server});
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(Score(), StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_EQ(scorer_->states()[0].breaker, State::kClosed);
}

// gRPC's threads hold what they call back a little longer than the call lasts.
TEST_F(RemoteScorerTest, GoesAsSoonAsItsCallsAreOver) {
  ScoringServer server(ScoringServer::Good(1));
  for (int i = 0; i < 100; ++i) {
    Connect({&server});
    EXPECT_THAT(Numbers(), ElementsAre(1, 1));
    scorer_.reset();
  }
}

TEST_F(RemoteScorerTest, GoesWhileAProbeIsUnderWay) {
  // Takes connections, and never answers.
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_GE(listener, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const plain = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(bind(listener, plain, size), 0);
  ASSERT_EQ(listen(listener, 16), 0);
  ASSERT_EQ(getsockname(listener, plain, &size), 0);
  RemoteScorerOptions options{
      .endpoints = {absl::StrCat("127.0.0.1:", ntohs(address.sin_port))},
      .probe_timeout = kLong};
  scorer_ = ValueOrDie(RemoteScorer::Create(std::move(options)));
  EXPECT_THAT(Score(absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kUnavailable));
  const absl::Time begin = absl::Now();
  scorer_.reset();
  EXPECT_LT(absl::Now() - begin, kLong / 2);
  close(listener);
}

TEST_F(RemoteScorerTest, ManyThreadsAreServed) {
  ScoringServer server(ScoringServer::Good(1));
  Connect({&server});
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this] {
      for (int i = 0; i < 25; ++i) EXPECT_THAT(Numbers(), ElementsAre(1, 1));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(server.requests(), 100);
}

TEST(HedgePolicyTest, WaitsAsLongAsNearlyAllTake) {
  HedgePolicy policy({.window = 100,
                      .min_latencies = 100,
                      .shortest = absl::Milliseconds(10),
                      .longest = absl::Milliseconds(90)});
  for (int i = 1; i < 100; ++i) policy.AddLatency(absl::Milliseconds(i));
  EXPECT_EQ(policy.Delay(), absl::Milliseconds(90));  // Too few.
  policy.AddLatency(absl::Milliseconds(100));
  EXPECT_EQ(policy.Delay(), absl::Milliseconds(90));  // 95, bounded.
  // The window forgets the oldest.
  for (int i = 0; i < 100; ++i) policy.AddLatency(absl::Milliseconds(20));
  EXPECT_EQ(policy.Delay(), absl::Milliseconds(20));
  for (int i = 0; i < 100; ++i) policy.AddLatency(absl::Milliseconds(1));
  EXPECT_EQ(policy.Delay(), absl::Milliseconds(10));
}

TEST(HedgePolicyTest, SecondCallsHaveABudget) {
  HedgePolicy policy({.rate = 0.25, .burst = 2});
  EXPECT_TRUE(policy.TakeHedge());
  EXPECT_TRUE(policy.TakeHedge());
  EXPECT_FALSE(policy.TakeHedge());
  for (int i = 0; i < 4; ++i) policy.CountCall();
  EXPECT_TRUE(policy.TakeHedge());
  EXPECT_FALSE(policy.TakeHedge());
}

TEST(CircuitBreakerTest, OpensProbesTriesAndCloses) {
  const absl::Time start = absl::UnixEpoch();
  CircuitBreaker breaker({.failures = 2,
                          .first_pause = absl::Seconds(1),
                          .longest_pause = absl::Seconds(3)});
  EXPECT_FALSE(breaker.TakeCall());
  EXPECT_TRUE(breaker.TakeProbe(start));
  EXPECT_FALSE(breaker.TakeProbe(start));  // Somebody probes.
  breaker.EndProbe(true, start);
  EXPECT_EQ(breaker.state(), State::kClosed);
  // A success between failures forgives them.
  breaker.Fail(start);
  breaker.Succeed();
  breaker.Fail(start);
  EXPECT_EQ(breaker.state(), State::kClosed);
  breaker.Fail(start);
  EXPECT_EQ(breaker.state(), State::kOpen);
  EXPECT_FALSE(breaker.TakeCall());
  EXPECT_FALSE(breaker.TakeProbe(start + absl::Milliseconds(999)));
  EXPECT_TRUE(breaker.TakeProbe(start + absl::Seconds(1)));
  breaker.EndProbe(true, start + absl::Seconds(1));
  EXPECT_EQ(breaker.state(), State::kHalfOpen);
  EXPECT_TRUE(breaker.TakeCall());
  EXPECT_FALSE(breaker.TakeCall());  // One trial at a time.
  breaker.Fail(start + absl::Seconds(1));
  EXPECT_EQ(breaker.state(), State::kOpen);
  // Twice as long, and no longer than the longest.
  EXPECT_EQ(breaker.next_probe(), start + absl::Seconds(3));
  EXPECT_TRUE(breaker.TakeProbe(start + absl::Seconds(3)));
  breaker.EndProbe(false, start + absl::Seconds(3));
  EXPECT_EQ(breaker.next_probe(), start + absl::Seconds(6));
  EXPECT_TRUE(breaker.TakeProbe(start + absl::Seconds(6)));
  breaker.EndProbe(true, start + absl::Seconds(6));
  EXPECT_TRUE(breaker.TakeCall());
  breaker.Forget();
  EXPECT_TRUE(breaker.TakeCall());
  breaker.Succeed();
  EXPECT_EQ(breaker.state(), State::kClosed);
}

}  // namespace
}  // namespace quern
