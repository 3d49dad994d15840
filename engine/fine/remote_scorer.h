#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "engine/fine/circuit_breaker.h"
#include "engine/fine/hedge_policy.h"
#include "engine/fine/scorer.h"

namespace quern {

// One call of one endpoint, for the metrics.
struct RemoteCall {
  std::string endpoint;
  absl::StatusCode code = absl::StatusCode::kOk;  // kCancelled: not needed.
  absl::Duration duration;
  bool is_hedge = false;
};

struct RemoteScorerOptions {
  std::vector<std::string> endpoints;             // host:port; at least one.
  int64_t max_message_bytes = int64_t{64} << 20;  // Of a request or an answer.
  // Of the first look at an endpoint, and of each after it failed.
  absl::Duration probe_timeout = absl::Seconds(2);
  CircuitBreakerOptions breaker;
  HedgePolicyOptions hedge;
  // Called for each call of Score() on an endpoint, from many threads.
  std::function<void(const RemoteCall&)> observe = [](const RemoteCall&) {};
};

// Scorers in other processes, over quern.v1.Scoring. Thread-safe.
//
// Life of a Score(): an endpoint whose circuit is closed, in turn -> if it
// fails, the next one at once; if it is slow, the next one too (HedgePolicy)
// -> the first good answer, which is checked against the request; the others
// are cancelled. Answers of several endpoints are never mixed.
//
// An endpoint is used once it has answered Describe(). One that fails several
// times in a row is left alone for a while (CircuitBreaker); then a Describe()
// of its own, which no caller pays for while there are others, is its probe.
class RemoteScorer final : public Scorer {
 public:
  // Connects later, and goes on trying: endpoints need not be there. Errors:
  // kInvalidArgument without endpoints.
  static absl::StatusOr<std::unique_ptr<RemoteScorer>> Create(
      RemoteScorerOptions options);
  // No call may be under way.
  ~RemoteScorer() override;

  // What the endpoints that are up need, together. Errors: kUnavailable naming
  // each endpoint and why it is down.
  absl::StatusOr<ScorerInfo> Describe(
      const RequestContext& context) const override;

  // Errors, all naming the endpoints and what each answered:
  //   kDeadlineExceeded    none answered in time
  //   kUnavailable         none is up
  //   kFailedPrecondition  none knows the model
  //   kDataLoss            the last one answered nonsense
  //   kResourceExhausted   the request, or the answer, is too long
  //   and what an endpoint answered
  absl::StatusOr<std::vector<CandidateScore>> Score(
      const RequestContext& context,
      const ScoreRequest& request) const override;

  struct EndpointState {
    std::string endpoint;
    CircuitBreaker::State breaker = CircuitBreaker::State::kOpen;
  };
  std::vector<EndpointState> states() const;

 private:
  class Callbacks;
  class Endpoint;
  class Race;
  class ScoreCall;

  explicit RemoteScorer(RemoteScorerOptions options);

  // Those that may be called, in turn; each was asked by TakeCall() as it is
  // taken. Null when there are no more.
  std::shared_ptr<Endpoint> Next(const ScoreRequest& request,
                                 std::vector<bool>& used) const;
  // Why Next() gave none to begin with.
  absl::Status NoneToAsk(const ScoreRequest& request) const;
  std::string WhyNoneIsUp() const;

  const RemoteScorerOptions options_;
  const std::shared_ptr<Callbacks> callbacks_;
  std::vector<std::shared_ptr<Endpoint>> endpoints_;
  struct Shared;
  const std::unique_ptr<Shared> shared_;
};

}  // namespace quern
