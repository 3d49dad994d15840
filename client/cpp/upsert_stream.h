#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/sync_stream.h"

#include "quern/v1/items.grpc.pb.h"

namespace quern {

struct UpsertStreamOptions {
  // Items sent and not yet answered, at most; >= 1.
  int window = 16;
  // Longest wait for the next result while items are unanswered; then the
  // stream is given up as DEADLINE_EXCEEDED.
  absl::Duration stall_timeout = absl::Minutes(2);
};

// Writes items to a collection over one stream, several in flight.
//
// Write() and Finish() belong to one thread; results come on another, in the
// order of the writes. An item that got no result may or may not be stored:
// upserts are idempotent, so write it again on a new stream.
class UpsertStream {
 public:
  using ResultCallback = std::function<void(const v1::UpsertResponse&)>;

  // Made by Client::Upsert(). `stub` must outlive the stream.
  UpsertStream(v1::Items::StubInterface* stub,
               std::shared_ptr<grpc::ClientContext> context,
               std::string collection, UpsertStreamOptions options,
               ResultCallback on_result);
  // Cancels what Finish() has not seen to its end.
  ~UpsertStream();

  UpsertStream(const UpsertStream&) = delete;
  UpsertStream& operator=(const UpsertStream&) = delete;

  // Waits for room in the window, then sends; the collection is filled in.
  // An error is the stream's, not the item's (that one arrives as a result):
  // nothing more can be written.
  absl::Status Write(v1::UpsertRequest request);

  // Ends the stream and waits for the results that are due. OK when every item
  // written got its result, whatever the results say. Idempotent.
  absl::Status Finish();

 private:
  void ReadResults();
  // Waits until at most `max` items are unanswered or the stream has ended.
  // False when the server stalled.
  bool AwaitInFlightAtMost(int64_t max);
  // Ends a stream whose server stalled.
  absl::Status GiveUp();
  // Joins the reader and takes the stream's final status.
  absl::Status Close();

  const UpsertStreamOptions options_;
  const std::string collection_;
  const ResultCallback on_result_;
  const std::shared_ptr<grpc::ClientContext> context_;
  const std::unique_ptr<
      grpc::ClientReaderWriterInterface<v1::UpsertRequest, v1::UpsertResponse>>
      stream_;

  // The writing thread's own.
  bool closed_ = false;
  absl::Status final_status_;

  absl::Mutex mutex_;
  int64_t written_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t answered_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread reader_;
};

}  // namespace quern
