#include "tests/bench/reply.h"

#include <cstdint>
#include <cstring>

#include "absl/strings/numbers.h"
#include <arpa/inet.h>

namespace quern {
namespace {

constexpr char kLineEnd[] = "\r\n";

enum class Taken { kAll, kPart, kNothingKnown };

// Takes the first value from `rest`; `failed` becomes true where an error is in
// it. Anything but kAll leaves `rest` in the middle.
Taken TakeRedisValue(absl::string_view& rest, bool& failed) {
  // Values that are still to come, those of arrays included.
  for (int64_t wanted = 1; wanted > 0; --wanted) {
    const size_t line_end = rest.find(kLineEnd);
    if (line_end == absl::string_view::npos) return Taken::kPart;
    const absl::string_view line = rest.substr(0, line_end);
    rest.remove_prefix(line_end + 2);
    const char type = line.empty() ? '\0' : line.front();
    if (type == '-') failed = true;
    if (type == '+' || type == ':' || type == '-') continue;
    int64_t size = 0;
    if ((type != '$' && type != '*') ||
        !absl::SimpleAtoi(line.substr(1), &size)) {
      return Taken::kNothingKnown;
    }
    if (size < 0) continue;  // Null.
    if (type == '*') {
      wanted += size;
      continue;
    }
    const auto length = static_cast<size_t>(size) + 2;
    if (rest.size() < length) return Taken::kPart;
    rest.remove_prefix(length);
  }
  return Taken::kAll;
}

}  // namespace

std::optional<Reply> FindRedisReply(absl::string_view bytes, size_t count) {
  Reply reply;
  absl::string_view rest = bytes;
  for (size_t i = 0; i < count; ++i) {
    switch (TakeRedisValue(rest, reply.failed)) {
      case Taken::kAll:
        break;
      case Taken::kPart:
        return std::nullopt;
      case Taken::kNothingKnown:
        return Reply{.size = bytes.size(), .failed = true};
    }
  }
  reply.size = bytes.size() - rest.size();
  return reply;
}

size_t CountRedisValues(absl::string_view bytes) {
  size_t count = 0;
  bool failed = false;
  while (!bytes.empty() && TakeRedisValue(bytes, failed) == Taken::kAll) {
    ++count;
  }
  return count;
}

std::optional<Reply> FindPostgresReply(absl::string_view bytes) {
  Reply reply;
  // A type, and a length that counts itself, most significant byte first.
  constexpr size_t kHead = 5;
  while (bytes.size() >= reply.size + kHead) {
    const char type = bytes[reply.size];
    uint32_t length = 0;
    std::memcpy(&length, bytes.data() + reply.size + 1, sizeof length);
    const size_t end = reply.size + 1 + ntohl(length);
    if (end > bytes.size()) return std::nullopt;
    reply.size = end;
    if (type == 'E') reply.failed = true;  // ErrorResponse
    if (type == 'Z') return reply;         // ReadyForQuery
  }
  return std::nullopt;
}

}  // namespace quern
