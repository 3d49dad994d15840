#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"

namespace quern {

// Parses what a caller sent, without joining its pieces. `message` must be
// empty; on error its content is undefined.
// Errors: kInvalidArgument naming the field and the byte, as ExplainBadMessage.
absl::Status ParseMessage(grpc::ByteBuffer& bytes,
                          google::protobuf::Message& message);

// Why `bytes` is not a message of this type: an InvalidField() with the path
// of the text that is not UTF-8 ("query.parts[2].text"), or "malformed
// message", each with the offset of the offending byte from the message's
// start. Meant for bytes that the parser has refused.
absl::Status ExplainBadMessage(absl::string_view bytes,
                               const google::protobuf::Descriptor& descriptor);

}  // namespace quern
