#pragma once

#include <string>

#include "absl/strings/string_view.h"

// Addresses as the configuration has them: "127.0.0.1:7070", "[::1]:0".

namespace quern {

// `address` with another port.
std::string WithPort(absl::string_view address, int port);

// Why `address` cannot be listened on, in the system's words, found by trying;
// empty when it can.
std::string ListenError(absl::string_view address);

// Connects to `address` and hangs up; whether that worked does not matter.
void Knock(absl::string_view address);

}  // namespace quern
