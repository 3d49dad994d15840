#pragma once

// Where a reply ends in what a server has sent, for tcp_load.

#include <cstddef>
#include <optional>

#include "absl/strings/string_view.h"

namespace quern {

struct Reply {
  size_t size = 0;      // In bytes.
  bool failed = false;  // An error is in it, however deep.
};

// `count` values of RESP, the protocol of Redis in its version 2, that `bytes`
// begin with. None: more bytes are needed. What is not RESP is a failure of all
// bytes that there are.
std::optional<Reply> FindRedisReply(absl::string_view bytes, size_t count);

// Values of RESP in `bytes`: how many replies a pipeline of commands gets.
size_t CountRedisValues(absl::string_view bytes);

// What PostgreSQL (protocol 3) answers up to its next ReadyForQuery. None: more
// bytes are needed.
std::optional<Reply> FindPostgresReply(absl::string_view bytes);

}  // namespace quern
