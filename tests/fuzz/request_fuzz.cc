// What a caller's bytes go through before the engine sees them. The first byte
// says which request the rest is, in pieces of the size of the second byte.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/logging.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"

#include "engine/base/utf8.h"
#include "server/codec.h"
#include "server/grpc_status.h"
#include "server/parse_message.h"
#include "tests/fuzz/require.h"

namespace quern {
namespace {

grpc::ByteBuffer InPieces(absl::string_view bytes, size_t piece_bytes) {
  std::vector<grpc::Slice> slices;
  do {
    const absl::string_view piece = bytes.substr(0, piece_bytes);
    slices.emplace_back(piece.data(), piece.size());
    bytes.remove_prefix(piece.size());
  } while (!bytes.empty());
  return {slices.data(), slices.size()};
}

// The errors that are the caller's: clear, and fit to be sent.
void CheckError(const absl::Status& status) {
  if (status.ok()) return;
  QUERN_FUZZ_REQUIRE(status.code() == absl::StatusCode::kInvalidArgument ||
                     status.code() == absl::StatusCode::kUnimplemented);
  QUERN_FUZZ_REQUIRE(!status.message().empty());
  QUERN_FUZZ_REQUIRE(IsValidUtf8(status.message()));
  const grpc::Status sent = ToGrpcStatus(status);
  QUERN_FUZZ_REQUIRE(static_cast<int>(sent.error_code()) ==
                     static_cast<int>(status.code()));
}

// Parses as the server does, and compares with protobuf's own parser.
template <typename Request>
bool Parse(absl::string_view bytes, size_t piece_bytes, Request& request) {
  grpc::ByteBuffer buffer = InPieces(bytes, piece_bytes);
  const absl::Status status = ParseMessage(buffer, request);
  CheckError(status);
  Request expected;
  QUERN_FUZZ_REQUIRE(
      status.ok() ==
      expected.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
  // A message that was refused has a reason, also without the pieces.
  if (!status.ok()) {
    QUERN_FUZZ_REQUIRE(status ==
                       ExplainBadMessage(bytes, *Request::descriptor()));
  }
  return status.ok();
}

void Embed(const v1::EmbedRequest& request) {
  for (int i = 0; i < request.inputs_size(); ++i) {
    const v1::Input& input = request.inputs(i);
    const absl::StatusOr<EmbedInput> decoded = DecodeInput(input);
    CheckError(decoded.status());
    if (!decoded.ok()) continue;
    if (const auto* image = std::get_if<ImageInput>(&*decoded)) {
      QUERN_FUZZ_REQUIRE(image->encoded == input.image().content() &&
                         image->uri == input.image().uri());
    }
    if (const auto* text = std::get_if<TextInput>(&*decoded)) {
      QUERN_FUZZ_REQUIRE(text->text == input.text());
    }
  }
  const absl::StatusOr<EmbedOptions> options = DecodeEmbedOptions(request);
  CheckError(options.status());
  if (!options.ok()) return;
  QUERN_FUZZ_REQUIRE(options->video.frames_per_second > 0 &&
                     options->video.max_frames >= 1);
  QUERN_FUZZ_REQUIRE(options->embedding || options->dense || options->tokens);
}

void Search(const v1::SearchRequest& request) {
  const absl::StatusOr<ItemMask> mask = ItemMask::FromRequest(request);
  CheckError(mask.status());
  if (!mask.ok()) return;
  const EngineLimits limits;
  const absl::StatusOr<SearchQuery> query =
      DecodeSearch(request, limits, *mask);
  CheckError(query.status());
  if (!query.ok()) return;
  QUERN_FUZZ_REQUIRE(!query->collection.empty());
  QUERN_FUZZ_REQUIRE(query->k >= 1 && query->k <= limits.max_page_size);
  QUERN_FUZZ_REQUIRE(query->parts.size() ==
                     static_cast<size_t>(request.query().parts_size()));
}

void Upsert(const v1::UpsertRequest& request) {
  const absl::StatusOr<UpsertInput> input = DecodeUpsert(request);
  CheckError(input.status());
  if (input.ok()) QUERN_FUZZ_REQUIRE(input->id == request.id());
}

void PageToken(absl::string_view token) {
  constexpr absl::string_view kScope = "items of photos";
  const absl::StatusOr<std::string> last = DecodePageToken(token, kScope);
  CheckError(last.status());
  if (!last.ok() || token.empty()) return;
  const absl::StatusOr<std::string> again =
      DecodePageToken(EncodePageToken(kScope, *last), kScope);
  QUERN_FUZZ_REQUIRE(again.ok() && *again == *last);
}

template <typename Request>
void ParseAnd(void (*decode)(const Request&), absl::string_view bytes,
              size_t piece_bytes) {
  Request request;
  if (Parse(bytes, piece_bytes, request)) decode(request);
}

void CheckCollection(const v1::CreateCollectionRequest& request) {
  CheckError(CheckNewCollection(request.collection()));
}

}  // namespace
}  // namespace quern

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // It reports every text that is not UTF-8.
  static const google::protobuf::LogSilencer silence;
  constexpr size_t kHeaderBytes = 2;
  if (size < kHeaderBytes) return 0;
  const absl::string_view bytes(
      reinterpret_cast<const char*>(data) + kHeaderBytes, size - kHeaderBytes);
  const size_t piece_bytes = size_t{data[1]} + 1;
  switch (data[0]) {
    case 'e':
      quern::ParseAnd(quern::Embed, bytes, piece_bytes);
      break;
    case 's':
      quern::ParseAnd(quern::Search, bytes, piece_bytes);
      break;
    case 'u':
      quern::ParseAnd(quern::Upsert, bytes, piece_bytes);
      break;
    case 'c':
      quern::ParseAnd(quern::CheckCollection, bytes, piece_bytes);
      break;
    case 't':
      quern::PageToken(bytes);
      break;
    default:
      break;
  }
  return 0;
}
