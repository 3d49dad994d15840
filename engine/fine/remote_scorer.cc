#include "engine/fine/remote_scorer.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "grpc/grpc.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/security/credentials.h"

#include "engine/base/error.h"
#include "engine/base/status_macros.h"
#include "engine/fine/scoring_codec.h"
#include "quern/v1/scoring.pb.h"

namespace quern {
namespace {

constexpr char kScoreMethod[] = "/quern.v1.Scoring/Score";
constexpr char kDescribeMethod[] = "/quern.v1.Scoring/Describe";
// Between two looks at whether the caller is still there.
constexpr absl::Duration kCancelPoll = absl::Milliseconds(20);
// A killed endpoint is connected to again soon, whatever the breaker says.
constexpr int kFirstReconnectMs = 100;
constexpr int kLongestReconnectMs = 1000;
constexpr int kConnectTimeoutMs = 2000;
constexpr size_t kMaxReasonBytes = 300;

// Time as it passes here; RequestContext's clock may be a test's.
absl::Time RealDeadline(const RequestContext& context) {
  if (context.deadline() == absl::InfiniteFuture()) return context.deadline();
  return absl::Now() + (context.deadline() - context.clock().Now());
}

// What an endpoint answered, as its caller reads it.
absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int code = status.error_code();
  const bool is_known = code >= 0 && code <= 16;
  std::string message = Quoted(status.error_message(), kMaxReasonBytes);
  return {is_known ? static_cast<absl::StatusCode>(code)
                   : absl::StatusCode::kUnknown,
          message};
}

template <typename Message>
absl::StatusOr<Message> Parse(grpc::ByteBuffer& bytes) {
  Message message;
  if (!bytes.Valid()) return absl::DataLossError("it answered without message");
  if (!grpc::SerializationTraits<Message>::Deserialize(&bytes, &message).ok()) {
    return absl::DataLossError("its answer is no message of the contract");
  }
  return message;
}

grpc::ByteBuffer Serialise(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

// Whether a scorer does what is asked for.
bool Knows(const ScorerInfo& info, const ScoreRequest& request) {
  return absl::c_linear_search(info.tasks, request.task) &&
         (info.model_fingerprints.empty() ||
          absl::c_linear_search(info.model_fingerprints,
                                request.model_fingerprint));
}

// Whether it tells something of the endpoint, rather than of the request.
bool IsFailureOfEndpoint(const absl::Status& status) {
  return !absl::IsInvalidArgument(status) && !absl::IsCancelled(status) &&
         !absl::IsFailedPrecondition(status);
}

}  // namespace

// What gRPC's threads are to call back, and may hold a little longer than that.
// None of them may let go of the last channel of the process, which the context
// of a call keeps, too: gRPC 1.51 has it wait for the end of these very threads
// (CompletionQueue::ReleaseCallbackAlternativeCQ()). So the scorer waits until
// they hold nothing any more. Thread-safe.
class RemoteScorer::Callbacks {
 public:
  // For a callback, which holds it until gRPC has destroyed the last copy of
  // the callback.
  template <typename T>
  static std::shared_ptr<T> Hold(std::shared_ptr<Callbacks> callbacks,
                                 std::shared_ptr<T> held) {
    callbacks->Count(1);
    T* const object = held.get();
    return {object, [callbacks = std::move(callbacks),
                     held = std::move(held)](T*) mutable {
              held.reset();
              callbacks->Count(-1);
            }};
  }

  void WaitUntilGone() {
    absl::MutexLock lock(&mutex_);
    const auto is_gone = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return count_ == 0;
    };
    mutex_.Await(absl::Condition(&is_gone));
  }

 private:
  void Count(int change) {
    absl::MutexLock lock(&mutex_);
    count_ += change;
  }

  absl::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

// One endpoint: its channel, what it said of itself, and its breaker.
// Thread-safe.
class RemoteScorer::Endpoint {
 public:
  Endpoint(std::string address, const RemoteScorerOptions& options,
           std::shared_ptr<Callbacks> callbacks)
      : address_(std::move(address)),
        probe_timeout_(options.probe_timeout),
        callbacks_(std::move(callbacks)),
        stub_(Channel(address_, options)),
        breaker_(options.breaker) {}

  const std::string& address() const { return address_; }
  grpc::GenericStub& stub() { return stub_; }

  CircuitBreaker::State state() const {
    absl::MutexLock lock(&mutex_);
    return breaker_.state();
  }

  // Null while it is not up.
  std::optional<ScorerInfo> info() const {
    absl::MutexLock lock(&mutex_);
    if (breaker_.state() == CircuitBreaker::State::kOpen) return std::nullopt;
    return info_;
  }

  bool is_probing() const {
    absl::MutexLock lock(&mutex_);
    return breaker_.is_probing();
  }

  std::string WhyDown() const {
    absl::MutexLock lock(&mutex_);
    return absl::StrCat(
        address_, ": ",
        breaker_.state() == CircuitBreaker::State::kOpen ? "" : "on trial; ",
        failure_.ok() ? "it has not answered yet" : failure_.ToString());
  }

  bool TakeCall() {
    absl::MutexLock lock(&mutex_);
    return breaker_.TakeCall();
  }

  void EndCall(const absl::Status& status, bool was_given_time) {
    absl::MutexLock lock(&mutex_);
    if (status.ok()) return breaker_.Succeed();
    if (!IsFailureOfEndpoint(status) ||
        (absl::IsDeadlineExceeded(status) && !was_given_time)) {
      return breaker_.Forget();
    }
    failure_ = status;
    breaker_.Fail(absl::Now());
  }

  // Asks it what it is, unless it is up, its pause is not over, or somebody
  // asks already. Does not wait.
  void MaybeProbe() {
    {
      absl::MutexLock lock(&mutex_);
      if (!breaker_.TakeProbe(absl::Now())) return;
    }
    const auto probe = std::make_shared<Probe>();
    probe->context.set_deadline(std::chrono::system_clock::now() +
                                absl::ToChronoMilliseconds(probe_timeout_));
    {
      absl::MutexLock lock(&mutex_);
      probe_ = probe;
    }
    stub_.UnaryCall(
        &probe->context, kDescribeMethod, {}, &probe->request, &probe->response,
        [this, held = Callbacks::Hold(callbacks_, probe)](
            const grpc::Status& status) { EndProbe(status, held->response); });
  }

  // Does not wait for its end.
  void CancelProbe() {
    std::shared_ptr<Probe> probe;
    {
      absl::MutexLock lock(&mutex_);
      probe = probe_.lock();
    }
    if (probe != nullptr) probe->context.TryCancel();
  }

 private:
  struct Probe {
    grpc::ClientContext context;
    grpc::ByteBuffer request = Serialise(v1::DescribeScorerRequest());
    grpc::ByteBuffer response;
  };

  static std::shared_ptr<grpc::Channel> Channel(
      const std::string& address, const RemoteScorerOptions& options) {
    grpc::ChannelArguments arguments;
    const auto max_bytes = static_cast<int>(options.max_message_bytes);
    arguments.SetMaxReceiveMessageSize(max_bytes);
    arguments.SetMaxSendMessageSize(max_bytes);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLongestReconnectMs);
    // Retries are ours, and go elsewhere.
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(
        address, grpc::InsecureChannelCredentials(), arguments);
  }

  static absl::StatusOr<ScorerInfo> TakeDescription(
      const grpc::Status& status, grpc::ByteBuffer& response) {
    QUERN_RETURN_IF_ERROR(FromGrpc(status));
    QUERN_ASSIGN_OR_RETURN(const v1::ScorerDescription message,
                           Parse<v1::ScorerDescription>(response));
    return DecodeScorerInfo(message);
  }

  void EndProbe(const grpc::Status& status, grpc::ByteBuffer& response) {
    absl::StatusOr<ScorerInfo> info = TakeDescription(status, response);
    absl::MutexLock lock(&mutex_);
    breaker_.EndProbe(info.ok(), absl::Now());
    if (info.ok()) {
      info_ = *std::move(info);
    } else {
      failure_ = Annotate(info.status(), "Describe");
    }
  }

  const std::string address_;
  const absl::Duration probe_timeout_;
  const std::shared_ptr<Callbacks> callbacks_;
  grpc::GenericStub stub_;

  mutable absl::Mutex mutex_;
  CircuitBreaker breaker_ ABSL_GUARDED_BY(mutex_);
  std::optional<ScorerInfo> info_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);  // The last one.
  std::weak_ptr<Probe> probe_ ABSL_GUARDED_BY(mutex_);
};

// The calls of one Score(). gRPC's threads hold it until the last has ended.
// It does not outlive the scorer.
class RemoteScorer::Race : public std::enable_shared_from_this<Race> {
 public:
  struct Runner {
    std::shared_ptr<Endpoint> endpoint;
    bool is_hedge = false;
    absl::Time start;
    grpc::ClientContext context;
    grpc::ByteBuffer request;
    grpc::ByteBuffer response;
    grpc::Status status;
    bool is_back = false;    // `status` and `response` are set.
    bool is_judged = false;  // By the caller's thread alone.
  };

  Race(const grpc::ByteBuffer& request, std::shared_ptr<Callbacks> callbacks)
      : request_(request), callbacks_(std::move(callbacks)) {}

  // gRPC may call back before a call into it has returned: none is made with
  // the lock held.
  void Start(std::shared_ptr<Endpoint> endpoint, bool is_hedge,
             const std::string& id, absl::Time deadline) {
    auto owned = std::make_unique<Runner>();
    Runner& runner = *owned;
    runner.endpoint = std::move(endpoint);
    runner.is_hedge = is_hedge;
    runner.start = absl::Now();
    runner.request = request_;
    runner.context.AddMetadata("x-request-id", id);
    if (deadline != absl::InfiniteFuture()) {
      runner.context.set_deadline(absl::ToChronoTime(deadline));
    }
    {
      absl::MutexLock lock(&mutex_);
      runners_.push_back(std::move(owned));
      ++running_;
    }
    runner.endpoint->stub().UnaryCall(
        &runner.context, kScoreMethod, {}, &runner.request, &runner.response,
        [self = Callbacks::Hold(callbacks_, shared_from_this()),
         &runner](grpc::Status status) {
          absl::MutexLock lock(&self->mutex_);
          runner.status = std::move(status);
          runner.is_back = true;
          --self->running_;
        });
  }

  // A call that is back and was not judged yet: it is the caller's to judge.
  // Null at `until`, or when none is under way.
  Runner* Await(absl::Time until) {
    absl::MutexLock lock(&mutex_);
    const auto is_ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return running_ == 0 || FindBack() != nullptr;
    };
    mutex_.AwaitWithDeadline(absl::Condition(&is_ready), until);
    Runner* const back = FindBack();
    if (back != nullptr) back->is_judged = true;
    return back;
  }

  // Ends what was not judged; that is the caller's to judge.
  std::vector<Runner*> CancelRest() {
    std::vector<Runner*> rest;
    {
      absl::MutexLock lock(&mutex_);
      for (const std::unique_ptr<Runner>& runner : runners_) {
        if (runner->is_judged) continue;
        runner->is_judged = true;
        rest.push_back(runner.get());
      }
    }
    for (Runner* const runner : rest) runner->context.TryCancel();
    return rest;
  }

  bool HasRunning() const {
    absl::MutexLock lock(&mutex_);
    return running_ > 0 || FindBack() != nullptr;
  }

 private:
  Runner* FindBack() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const std::unique_ptr<Runner>& runner : runners_) {
      if (runner->is_back && !runner->is_judged) return runner.get();
    }
    return nullptr;
  }

  const grpc::ByteBuffer request_;
  const std::shared_ptr<Callbacks> callbacks_;
  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Runner>> runners_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
};

struct RemoteScorer::Shared {
  explicit Shared(const HedgePolicyOptions& options) : hedges(options) {}

  std::atomic<size_t> turn = 0;
  absl::Mutex mutex;
  HedgePolicy hedges ABSL_GUARDED_BY(mutex);
};

// One Score(), on its caller's thread.
class RemoteScorer::ScoreCall {
 public:
  using Scores = std::vector<CandidateScore>;

  ScoreCall(const RemoteScorer& scorer, const RequestContext& context,
            const ScoreRequest& request, const grpc::ByteBuffer& bytes)
      : scorer_(scorer),
        context_(context),
        request_(request),
        deadline_(RealDeadline(context)),
        race_(std::make_shared<Race>(bytes, scorer.callbacks_)),
        used_(scorer.endpoints_.size()) {
    absl::MutexLock lock(&scorer.shared_->mutex);
    scorer.shared_->hedges.CountCall();
    delay_ = scorer.shared_->hedges.Delay();
    patience_ =
        scorer.shared_->hedges.is_learned() ? delay_ : absl::ZeroDuration();
  }

  absl::StatusOr<Scores> Run() {
    if (!StartNext(/*is_hedge=*/false)) return scorer_.NoneToAsk(request_);
    for (;;) {
      Race::Runner* const back = race_->Await(
          std::min({deadline_, hedge_time_, absl::Now() + kCancelPoll}));
      if (back != nullptr) {
        absl::StatusOr<Scores> scores = TakeAnswer(*back);
        if (scores.ok()) return scores;
        // What the request is to blame for is so elsewhere too.
        const bool goes_on = IsFailureOfEndpoint(scores.status()) &&
                             absl::Now() < deadline_ &&
                             StartNext(/*is_hedge=*/false);
        if (!goes_on && !race_->HasRunning()) {
          return absl::Status(scores.status().code(),
                              absl::StrJoin(failures_, "; "));
        }
        continue;
      }
      if (const absl::Status status = context_.Check("scoring");
          absl::IsCancelled(status)) {
        CancelRest();
        return status;
      }
      const absl::Time now = absl::Now();
      if (now >= deadline_) return Expire();
      if (now >= hedge_time_) Hedge();
    }
  }

 private:
  bool StartNext(bool is_hedge) {
    std::shared_ptr<Endpoint> next = scorer_.Next(request_, used_);
    if (next == nullptr) return false;
    race_->Start(std::move(next), is_hedge, context_.id(), deadline_);
    hedge_time_ = is_hedge ? absl::InfiniteFuture() : absl::Now() + delay_;
    return true;
  }

  void Hedge() {
    hedge_time_ = absl::InfiniteFuture();
    if (!absl::c_linear_search(used_, false)) return;
    {
      absl::MutexLock lock(&scorer_.shared_->mutex);
      if (!scorer_.shared_->hedges.TakeHedge()) return;
    }
    StartNext(/*is_hedge=*/true);
  }

  absl::StatusOr<Scores> TakeAnswer(Race::Runner& runner) {
    absl::StatusOr<Scores> scores = Judge(runner);
    Report(runner, scores.status());
    if (scores.ok()) {
      CancelRest();
      absl::MutexLock lock(&scorer_.shared_->mutex);
      scorer_.shared_->hedges.AddLatency(absl::Now() - runner.start);
    } else {
      failures_.push_back(absl::StrCat(runner.endpoint->address(), ": ",
                                       scores.status().ToString()));
    }
    return scores;
  }

  absl::StatusOr<Scores> Judge(Race::Runner& runner) const {
    QUERN_RETURN_IF_ERROR(FromGrpc(runner.status));
    QUERN_ASSIGN_OR_RETURN(const v1::ScoreResponse message,
                           Parse<v1::ScoreResponse>(runner.response));
    return DecodeScores(request_, message);
  }

  absl::Status Expire() {
    for (Race::Runner* const runner : race_->CancelRest()) {
      Report(*runner, absl::DeadlineExceededError("no answer in time"));
      failures_.push_back(
          absl::StrCat(runner->endpoint->address(), ": no answer in time"));
    }
    return absl::DeadlineExceededError(absl::StrJoin(failures_, "; "));
  }

  void CancelRest() {
    for (Race::Runner* const runner : race_->CancelRest()) {
      Report(*runner, absl::CancelledError());
    }
  }

  void Report(const Race::Runner& runner, const absl::Status& status) const {
    const absl::Duration taken = absl::Now() - runner.start;
    runner.endpoint->EndCall(status, taken >= patience_);
    scorer_.options_.observe({.endpoint = runner.endpoint->address(),
                              .code = status.code(),
                              .duration = taken,
                              .is_hedge = runner.is_hedge});
  }

  const RemoteScorer& scorer_;
  const RequestContext& context_;
  const ScoreRequest& request_;
  const absl::Time deadline_;
  const std::shared_ptr<Race> race_;
  std::vector<bool> used_;  // By endpoint.
  absl::Duration delay_;
  // A call that was given less time says nothing of its endpoint.
  absl::Duration patience_;
  absl::Time hedge_time_;
  std::vector<std::string> failures_;
};

absl::StatusOr<std::unique_ptr<RemoteScorer>> RemoteScorer::Create(
    RemoteScorerOptions options) {
  if (options.endpoints.empty()) {
    return absl::InvalidArgumentError("there are no endpoints");
  }
  return std::unique_ptr<RemoteScorer>(new RemoteScorer(std::move(options)));
}

RemoteScorer::RemoteScorer(RemoteScorerOptions options)
    : options_(std::move(options)),
      callbacks_(std::make_shared<Callbacks>()),
      shared_(std::make_unique<Shared>(options_.hedge)) {
  for (const std::string& address : options_.endpoints) {
    endpoints_.push_back(
        std::make_shared<Endpoint>(address, options_, callbacks_));
  }
}

RemoteScorer::~RemoteScorer() {
  for (const auto& endpoint : endpoints_) endpoint->CancelProbe();
  callbacks_->WaitUntilGone();
}

absl::StatusOr<ScorerInfo> RemoteScorer::Describe(
    const RequestContext& context) const {
  const absl::Time until =
      std::min(RealDeadline(context), absl::Now() + options_.probe_timeout);
  for (const auto& endpoint : endpoints_) endpoint->MaybeProbe();
  for (;;) {
    // Before the looks at what came of it: an answer may come between the two.
    const bool is_probing = absl::c_any_of(
        endpoints_,
        [](const auto& endpoint) { return endpoint->is_probing(); });
    std::optional<ScorerInfo> merged;
    for (const auto& endpoint : endpoints_) {
      const std::optional<ScorerInfo> info = endpoint->info();
      if (!info.has_value()) continue;
      if (!merged.has_value()) {
        merged = info;
        continue;
      }
      const auto least = [](int64_t a, int64_t b) {
        return a == 0 || b == 0 ? std::max(a, b) : std::min(a, b);
      };
      merged->max_candidates =
          least(merged->max_candidates, info->max_candidates);
      for (bool ScoreNeeds::*need :
           {&ScoreNeeds::embedding, &ScoreNeeds::grid, &ScoreNeeds::frames,
            &ScoreNeeds::tokens, &ScoreNeeds::media, &ScoreNeeds::text}) {
        merged->needs.*need |= info->needs.*need;
      }
    }
    if (merged.has_value()) return *std::move(merged);
    if (!is_probing || absl::Now() >= until) {
      return absl::UnavailableError(WhyNoneIsUp());
    }
    QUERN_RETURN_IF_ERROR(context.Check("scoring"));
    absl::SleepFor(absl::Milliseconds(1));
  }
}

std::string RemoteScorer::WhyNoneIsUp() const {
  return absl::StrCat("no scorer is up (",
                      absl::StrJoin(endpoints_, "; ",
                                    [](std::string* out, const auto& endpoint) {
                                      out->append(endpoint->WhyDown());
                                    }),
                      ")");
}

std::shared_ptr<RemoteScorer::Endpoint> RemoteScorer::Next(
    const ScoreRequest& request, std::vector<bool>& used) const {
  const size_t count = endpoints_.size();
  const size_t first = shared_->turn++ % count;
  // Those on trial come first: a trial that fails is tried again elsewhere.
  for (const auto state :
       {CircuitBreaker::State::kHalfOpen, CircuitBreaker::State::kClosed}) {
    for (size_t i = 0; i < count; ++i) {
      const size_t at = (first + i) % count;
      const std::shared_ptr<Endpoint>& endpoint = endpoints_[at];
      if (used[at] || endpoint->state() != state) continue;
      const std::optional<ScorerInfo> info = endpoint->info();
      if (!info.has_value() || !Knows(*info, request)) continue;
      if (!endpoint->TakeCall()) continue;
      used[at] = true;
      return endpoint;
    }
  }
  return nullptr;
}

absl::Status RemoteScorer::NoneToAsk(const ScoreRequest& request) const {
  const bool is_unknown = absl::c_all_of(endpoints_, [&](const auto& endpoint) {
    const std::optional<ScorerInfo> info = endpoint->info();
    return !info.has_value() || !Knows(*info, request);
  });
  const bool is_any_up = absl::c_any_of(endpoints_, [](const auto& endpoint) {
    return endpoint->info().has_value();
  });
  if (!is_unknown || !is_any_up) return absl::UnavailableError(WhyNoneIsUp());
  return absl::FailedPreconditionError(
      absl::StrCat("no scorer that is up does this task for model ",
                   Quoted(request.model_name), " of fingerprint ",
                   request.model_fingerprint.substr(0, 16),
                   ": name another in scoring.remote"));
}

absl::StatusOr<std::vector<CandidateScore>> RemoteScorer::Score(
    const RequestContext& context, const ScoreRequest& request) const {
  QUERN_RETURN_IF_ERROR(context.Check("scoring"));
  if (request.candidates.empty()) return std::vector<CandidateScore>();
  QUERN_ASSIGN_OR_RETURN(const ScorerInfo info, Describe(context));
  const grpc::ByteBuffer bytes =
      Serialise(EncodeScoreRequest(request, info.needs));
  if (static_cast<int64_t>(bytes.Length()) > options_.max_message_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the request has ", bytes.Length(),
        " bytes; server.max_message_bytes is ", options_.max_message_bytes,
        ": rerank fewer candidates, or raise it here and at the scorer"));
  }
  return ScoreCall(*this, context, request, bytes).Run();
}

std::vector<RemoteScorer::EndpointState> RemoteScorer::states() const {
  std::vector<EndpointState> states;
  for (const auto& endpoint : endpoints_) {
    states.push_back(
        {.endpoint = endpoint->address(), .breaker = endpoint->state()});
  }
  return states;
}

}  // namespace quern
