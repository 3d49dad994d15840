#pragma once

#include <bitset>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/field_mask.pb.h"
#include "google/protobuf/message.h"
#include "google/protobuf/timestamp.pb.h"

#include "engine/base/request_context.h"
#include "engine/model/model.h"
#include "engine/query/engine.h"
#include "engine/query/upsert_session.h"
#include "engine/snapshot/snapshot_folder.h"
#include "quern/v1/collections.pb.h"
#include "quern/v1/common.pb.h"
#include "quern/v1/embedding.pb.h"
#include "quern/v1/items.pb.h"
#include "quern/v1/models.pb.h"
#include "quern/v1/retrieval.pb.h"

// Messages of quern.v1 to and from the engine's structs. Whatever this version
// does not do is refused here by name, never ignored. Errors carry field paths
// as the caller wrote them.

namespace quern {

// kUnimplemented, "query.feedback: not available in this version".
absl::Status NotInThisVersion(absl::string_view field);

// NotInThisVersion() for the first of the named fields that `message` has set,
// with `prefix` before its name.
absl::Status RefuseFields(const google::protobuf::Message& message,
                          std::initializer_list<absl::string_view> fields,
                          absl::string_view prefix = "");

// kInvalidArgument when a name that must be given is empty.
absl::Status RequireName(absl::string_view name, absl::string_view field);

// The page size of a request that has an optional `page_size`. Errors:
// kInvalidArgument for an explicit one outside of 1 to `max`.
template <typename Request>
absl::StatusOr<int64_t> PageSize(const Request& request, int64_t fallback,
                                 int64_t max);
absl::StatusOr<int64_t> CheckedPageSize(int64_t page_size, int64_t max);

// Opaque to callers: where a list goes on, for the list called `scope` only.
std::string EncodePageToken(absl::string_view scope, absl::string_view last);
// The scope of a list that is filtered; the filter's text may be long.
std::string PageScope(absl::string_view scope, absl::string_view filter);
// "" for an empty token. Errors: kInvalidArgument on "page_token" for one that
// EncodePageToken() did not make for this scope.
absl::StatusOr<std::string> DecodePageToken(absl::string_view token,
                                            absl::string_view scope);

// The fields of an item that a caller wants.
class ItemMask {
 public:
  // An unset mask means all but the embedding. Errors: kInvalidArgument on
  // "read_mask" for a path that is not a field of Item.
  template <typename Request>
  static absl::StatusOr<ItemMask> FromRequest(const Request& request) {
    return FromPaths(request.read_mask());
  }
  static absl::StatusOr<ItemMask> FromPaths(
      const google::protobuf::FieldMask& mask);

  bool Has(int field_number) const { return fields_[field_number]; }
  // What the store must read.
  ItemParts parts() const;
  // Likewise, of an item that a search has found.
  ItemParts hit_parts() const;

 private:
  static constexpr size_t kMaxFieldNumber = 31;
  std::bitset<kMaxFieldNumber + 1> fields_;
};

// Errors: kDataLoss when the stored payload cannot be read.
absl::Status EncodeItem(const Item& item, const ItemMask& mask, v1::Item* out);

google::protobuf::Timestamp EncodeTime(absl::Time time);
v1::ModelVersion EncodeModelVersion(const ModelInfo& info);
void EncodeStages(const RequestContext& context,
                  google::protobuf::RepeatedPtrField<v1::StageTime>* out);

// Where a picture or a video is: an ImageInput or a VideoInput whose views
// point into `media`. Errors: kInvalidArgument for nothing; `field` is the path
// of `media`.
template <typename MediaInput>
absl::StatusOr<MediaInput> DecodeMedia(const v1::Media& media,
                                       absl::string_view field);

// Views point into `input`. Errors: kUnimplemented, kInvalidArgument; field
// paths as in Input.
absl::StatusOr<EmbedInput> DecodeInput(const v1::Input& input);

// `field` is the path of `sampling`. Errors: kInvalidArgument out of range.
absl::StatusOr<VideoSampling> DecodeSampling(const v1::VideoSampling& sampling,
                                             absl::string_view field);

// The outputs and the sampling of an EmbedRequest or an EmbedStreamRequest.
absl::StatusOr<EmbedOptions> DecodeEmbedOptions(
    const google::protobuf::RepeatedField<int>& outputs,
    const v1::VideoSampling& sampling);
template <typename Request>
absl::StatusOr<EmbedOptions> DecodeEmbedOptions(const Request& request) {
  return DecodeEmbedOptions(request.outputs(), request.video());
}

// `dimension` is that of the model.
void EncodeEmbedded(const Embedded& embedded, const EmbedOptions& options,
                    int64_t dimension, v1::EmbedResult* out);

// The query's views point into `request`. Errors: kUnimplemented and
// kInvalidArgument; what Engine::Search() checks is left to it.
absl::StatusOr<SearchQuery> DecodeSearch(const v1::SearchRequest& request,
                                         const EngineLimits& limits,
                                         const ItemMask& mask);
// `request` is what DecodeSearch() read: the next page's token is bound to it.
absl::Status EncodeSearch(const SearchResult& result,
                          const v1::SearchRequest& request,
                          const ItemMask& mask, const RequestContext& context,
                          v1::SearchResponse* response);

// The input's views point into `request`.
absl::StatusOr<UpsertInput> DecodeUpsert(const v1::UpsertRequest& request);
void EncodeUpsert(const UpsertResult& result, v1::UpsertResponse* response);

void EncodeSnapshot(const SnapshotInfo& snapshot, v1::Snapshot* out);

// Refuses what this version cannot create.
absl::Status CheckNewCollection(const v1::Collection& collection);

// kInvalidArgument on `field`: one of `choices` must be given.
absl::Status NothingGiven(absl::string_view field, absl::string_view choices);

template <typename MediaInput>
absl::StatusOr<MediaInput> DecodeMedia(const v1::Media& media,
                                       absl::string_view field) {
  switch (media.source_case()) {
    case v1::Media::kContent:
      return MediaInput{.encoded = media.content()};
    case v1::Media::kUri:
      if (media.uri().empty()) break;
      return MediaInput{.uri = media.uri()};
    case v1::Media::SOURCE_NOT_SET:
      break;
  }
  return NothingGiven(field, "content, uri");
}

template <typename Request>
absl::StatusOr<int64_t> PageSize(const Request& request, int64_t fallback,
                                 int64_t max) {
  if (!request.has_page_size()) return std::min(fallback, max);
  return CheckedPageSize(request.page_size(), max);
}

}  // namespace quern
