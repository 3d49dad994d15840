#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/server_context.h"

#include "quern/v1/scoring.grpc.pb.h"

namespace quern {

// A scorer in this process on a free port of 127.0.0.1, that answers what a
// test wants. Thread-safe.
class ScoringServer final : public v1::Scoring::Service {
 public:
  using Answer = std::function<grpc::Status(
      grpc::ServerContext*, const v1::ScoreRequest&, v1::ScoreResponse*)>;

  explicit ScoringServer(Answer answer) : answer_(std::move(answer)) {
    description_.set_name("test");
    description_.set_version("1");
    description_.add_tasks(v1::SCORING_TASK_RERANK);
    description_.add_tasks(v1::SCORING_TASK_REGIONS);
    description_.add_tasks(v1::SCORING_TASK_SEGMENTS);
    for (const auto feature :
         {v1::SCORING_FEATURE_EMBEDDING, v1::SCORING_FEATURE_GRID,
          v1::SCORING_FEATURE_FRAMES, v1::SCORING_FEATURE_TEXT}) {
      description_.add_required_features(feature);
    }
    Start("127.0.0.1:0");
  }
  ~ScoringServer() override { Stop(); }

  const std::string& address() const { return address_; }

  // As a killed process would; Restart() listens on the same port again.
  void Stop() {
    if (server_ == nullptr) return;
    if (!released_.HasBeenNotified()) released_.Notify();
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }
  void Restart() { Start(address_); }

  void SetAnswer(Answer answer) {
    absl::MutexLock lock(&mutex_);
    answer_ = std::move(answer);
  }
  void SetDescription(v1::ScorerDescription description) {
    absl::MutexLock lock(&mutex_);
    description_ = std::move(description);
  }
  v1::ScorerDescription description() const {
    absl::MutexLock lock(&mutex_);
    return description_;
  }
  int requests() const {
    absl::MutexLock lock(&mutex_);
    return requests_;
  }

  // One score per candidate, `score` for all.
  static Answer Good(float score) {
    return [score](grpc::ServerContext*, const v1::ScoreRequest& request,
                   v1::ScoreResponse* response) {
      for (const v1::ScoringCandidate& candidate : request.candidates()) {
        v1::CandidateScore& out = *response->add_scores();
        out.set_id(candidate.id());
        out.set_score(score);
      }
      return grpc::Status::OK;
    };
  }
  // A good one that `change` has spoilt.
  static Answer Spoilt(std::function<void(v1::ScoreResponse*)> change) {
    return [change = std::move(change)](grpc::ServerContext* context,
                                        const v1::ScoreRequest& request,
                                        v1::ScoreResponse* response) {
      Good(1)(context, request, response);
      change(response);
      return grpc::Status::OK;
    };
  }
  // Says nothing until the caller has gone, or the server stops.
  Answer Silence() {
    return [this](grpc::ServerContext* context, const v1::ScoreRequest&,
                  v1::ScoreResponse*) {
      while (!context->IsCancelled() &&
             !released_.WaitForNotificationWithTimeout(absl::Milliseconds(5))) {
      }
      return grpc::Status::CANCELLED;
    };
  }
  static Answer Failure(grpc::StatusCode code, const std::string& message) {
    return [code, message](grpc::ServerContext*, const v1::ScoreRequest&,
                           v1::ScoreResponse*) {
      return grpc::Status(code, message);
    };
  }

 private:
  void Start(const std::string& address) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    builder.SetMaxReceiveMessageSize(-1);
    server_ = builder.BuildAndStart();
    if (server_ != nullptr) address_ = absl::StrCat("127.0.0.1:", port);
  }

  grpc::Status Score(grpc::ServerContext* context,
                     const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override {
    Answer answer;
    {
      absl::MutexLock lock(&mutex_);
      ++requests_;
      answer = answer_;
    }
    return answer(context, *request, response);
  }

  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeScorerRequest*,
                        v1::ScorerDescription* response) override {
    *response = description();
    return grpc::Status::OK;
  }

  absl::Notification released_;
  mutable absl::Mutex mutex_;
  Answer answer_ ABSL_GUARDED_BY(mutex_);
  v1::ScorerDescription description_ ABSL_GUARDED_BY(mutex_);
  int requests_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace quern
