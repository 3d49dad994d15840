#include "client/cli/embed_inputs.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "client/cpp/rpc_status.h"

namespace quern::cli {
namespace {

using MakeInput = std::function<absl::StatusOr<v1::Input>(int64_t)>;

// The call failed because of what is in it. Others would fail for any input.
bool IsInputsFault(const absl::Status& status) {
  return absl::IsInvalidArgument(status);
}

// Hands out ranges of inputs to its threads and collects the rows.
class Embedder {
 public:
  Embedder(Client* client, const EmbedInputsOptions& options, int64_t count,
           const MakeInput& make_input, Progress* progress)
      : client_(client),
        options_(options),
        count_(count),
        make_input_(make_input),
        progress_(progress) {
    result_.statuses.assign(static_cast<size_t>(count),
                            absl::UnknownError("was not embedded"));
  }

  absl::StatusOr<EmbeddedInputs> Run() {
    std::vector<std::thread> threads;
    threads.reserve(static_cast<size_t>(options_.calls));
    for (int i = 0; i < options_.calls; ++i) {
      threads.emplace_back([this] { Work(); });
    }
    for (std::thread& thread : threads) thread.join();
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    return std::move(result_);
  }

 private:
  struct Batch {
    std::vector<int64_t> indexes;
    v1::EmbedRequest request;
  };

  void Work() {
    int64_t begin = 0;
    while (Next(begin)) {
      const int64_t end = std::min(begin + options_.batch, count_);
      while (begin < end) {
        if (!Embed(MakeBatch(begin, end))) return;
      }
    }
  }

  // False when there is no more to do.
  bool Next(int64_t& begin) {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok() || next_ >= count_) return false;
    begin = next_;
    next_ += options_.batch;
    return true;
  }

  // Takes inputs from `begin` on, as many as fit, and moves `begin` behind
  // them.
  Batch MakeBatch(int64_t& begin, int64_t end) {
    Batch batch;
    batch.request.set_model(options_.model);
    size_t bytes = 0;
    for (; begin < end; ++begin) {
      absl::StatusOr<v1::Input> input = make_input_(begin);
      if (!input.ok()) {
        Fail(begin, input.status());
        continue;
      }
      bytes += input->ByteSizeLong();
      if (!batch.indexes.empty() &&
          bytes > static_cast<size_t>(options_.max_batch_bytes)) {
        break;
      }
      batch.indexes.push_back(begin);
      *batch.request.add_inputs() = *std::move(input);
    }
    return batch;
  }

  // False when the whole run has failed.
  bool Embed(Batch batch) {
    if (batch.indexes.empty()) return true;
    const absl::StatusOr<v1::EmbedResponse> response =
        client_->Embed(batch.request);
    if (response.ok()) return Store(batch, *response);
    if (!IsInputsFault(response.status())) return Stop(response.status());
    if (batch.indexes.size() == 1) {
      Fail(batch.indexes.front(), response.status());
      return true;
    }
    // Every input failed and the error is the first one's: ask for each.
    for (size_t i = 0; i < batch.indexes.size(); ++i) {
      Batch single;
      single.indexes = {batch.indexes[i]};
      single.request.set_model(options_.model);
      *single.request.add_inputs() =
          std::move(*batch.request.mutable_inputs(static_cast<int>(i)));
      if (!Embed(std::move(single))) return false;
    }
    return true;
  }

  bool Store(const Batch& batch, const v1::EmbedResponse& response) {
    if (static_cast<size_t>(response.results_size()) != batch.indexes.size()) {
      return Stop(absl::InternalError(
          absl::StrCat("the server answered ", response.results_size(),
                       " results to ", batch.indexes.size(), " inputs")));
    }
    for (size_t i = 0; i < batch.indexes.size(); ++i) {
      const v1::EmbedResult& result = response.results(static_cast<int>(i));
      const absl::Status status = client::FromRpcStatus(result.status());
      if (!status.ok()) {
        Fail(batch.indexes[i], status);
      } else if (!StoreRow(batch.indexes[i], result)) {
        return Stop(absl::InternalError(
            "the server answered embeddings of different widths"));
      }
    }
    absl::MutexLock lock(&mutex_);
    result_.model = response.model();
    return true;
  }

  // False when the row does not fit the others.
  bool StoreRow(int64_t index, const v1::EmbedResult& result) {
    {
      absl::MutexLock lock(&mutex_);
      const int64_t width = result.embedding().values_size();
      if (result_.dimension == 0) {
        result_.dimension = width;
        result_.rows.assign(static_cast<size_t>(count_ * width), 0);
      }
      if (width == 0 || width != result_.dimension) return false;
      std::copy(result.embedding().values().begin(),
                result.embedding().values().end(),
                result_.rows.begin() + index * width);
      result_.statuses[static_cast<size_t>(index)] = absl::OkStatus();
      result_.truncated += result.truncated() ? 1 : 0;
    }
    progress_->Add(/*failed=*/false);
    return true;
  }

  void Fail(int64_t index, const absl::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      result_.statuses[static_cast<size_t>(index)] = status;
    }
    progress_->Add(/*failed=*/true);
  }

  bool Stop(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (failure_.ok()) failure_ = status;
    return false;
  }

  Client* const client_;
  const EmbedInputsOptions& options_;
  const int64_t count_;
  const MakeInput& make_input_;
  Progress* const progress_;

  absl::Mutex mutex_;
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  EmbeddedInputs result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<EmbeddedInputs> EmbedInputs(Client& client,
                                           const EmbedInputsOptions& options,
                                           int64_t count,
                                           const MakeInput& make_input,
                                           Progress& progress) {
  return Embedder(&client, options, count, make_input, &progress).Run();
}

}  // namespace quern::cli
