#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/client_context.h"

#include "quern/v1/collections.grpc.pb.h"
#include "quern/v1/embedding.grpc.pb.h"
#include "quern/v1/items.grpc.pb.h"
#include "quern/v1/models.grpc.pb.h"
#include "quern/v1/retrieval.grpc.pb.h"
#include "tests/support/quernd_process.h"

namespace quern {

// The calls that tests make most, with a deadline that only a hang reaches.
class Api {
 public:
  explicit Api(const QuerndProcess& server) : channel_(server.Channel()) {}

  grpc::Status CreateCollection(const std::string& name, int dimension = 0) {
    v1::CreateCollectionRequest request;
    request.mutable_collection()->set_name(name);
    if (dimension > 0) {
      request.mutable_collection()->set_model("none");
      request.mutable_collection()->set_dimension(dimension);
    }
    grpc::ClientContext context;
    SetDeadline(context);
    v1::Collection response;
    return v1::Collections::NewStub(channel_)->Create(&context, request,
                                                      &response);
  }

  grpc::Status GetCollection(const std::string& name,
                             v1::Collection* response) {
    v1::GetCollectionRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    SetDeadline(context);
    return v1::Collections::NewStub(channel_)->Get(&context, request, response);
  }

  // Sends all, then reads the results; `status` is the call's.
  std::vector<v1::UpsertResponse> Upsert(
      const std::vector<v1::UpsertRequest>& requests, grpc::Status* status) {
    grpc::ClientContext context;
    SetDeadline(context);
    auto stream = v1::Items::NewStub(channel_)->Upsert(&context);
    for (const v1::UpsertRequest& request : requests) {
      if (!stream->Write(request)) break;
    }
    stream->WritesDone();
    std::vector<v1::UpsertResponse> responses;
    v1::UpsertResponse response;
    while (stream->Read(&response)) responses.push_back(response);
    *status = stream->Finish();
    return responses;
  }

  // As above for one item; the result's own status where the call succeeded.
  google::rpc::Status UpsertOne(const v1::UpsertRequest& request) {
    grpc::Status status;
    const std::vector<v1::UpsertResponse> responses =
        Upsert({request}, &status);
    if (status.ok() && responses.size() == 1) return responses[0].status();
    google::rpc::Status error;
    error.set_code(status.error_code());
    error.set_message(status.error_message());
    return error;
  }

  grpc::Status Search(const v1::SearchRequest& request,
                      v1::SearchResponse* response) {
    grpc::ClientContext context;
    SetDeadline(context);
    return v1::Retrieval::NewStub(channel_)->Search(&context, request,
                                                    response);
  }

  grpc::Status Embed(const v1::EmbedRequest& request,
                     v1::EmbedResponse* response) {
    grpc::ClientContext context;
    SetDeadline(context);
    return v1::Embedding::NewStub(channel_)->Embed(&context, request, response);
  }

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  static void SetDeadline(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(60));
  }

 private:
  std::shared_ptr<grpc::Channel> channel_;
};

inline v1::UpsertRequest ImageUpsert(const std::string& collection,
                                     const std::string& id,
                                     const std::string& bytes) {
  v1::UpsertRequest request;
  request.set_collection(collection);
  request.set_id(id);
  request.mutable_image()->set_content(bytes);
  return request;
}

inline v1::UpsertRequest EmbeddingUpsert(const std::string& collection,
                                         const std::string& id,
                                         const std::vector<float>& values) {
  v1::UpsertRequest request;
  request.set_collection(collection);
  request.set_id(id);
  request.mutable_embedding()->mutable_values()->Assign(values.begin(),
                                                        values.end());
  return request;
}

inline v1::SearchRequest TextSearch(const std::string& collection,
                                    const std::string& text) {
  v1::SearchRequest request;
  request.set_collection(collection);
  request.mutable_query()->add_parts()->set_text(text);
  return request;
}

inline v1::SearchRequest EmbeddingSearch(const std::string& collection,
                                         const std::vector<float>& values) {
  v1::SearchRequest request;
  request.set_collection(collection);
  request.mutable_query()
      ->add_parts()
      ->mutable_embedding()
      ->mutable_values()
      ->Assign(values.begin(), values.end());
  return request;
}

// The field that a BadRequest detail names first; empty without one.
inline std::string ViolatedField(const google::rpc::Status& status) {
  for (const google::protobuf::Any& detail : status.details()) {
    google::rpc::BadRequest bad_request;
    if (detail.UnpackTo(&bad_request) &&
        bad_request.field_violations_size() > 0) {
      return bad_request.field_violations(0).field();
    }
  }
  return "";
}

inline std::string ViolatedField(const grpc::Status& status) {
  google::rpc::Status rich;
  rich.ParseFromString(status.error_details());
  return ViolatedField(rich);
}

}  // namespace quern
