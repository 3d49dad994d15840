#include "server/address.h"

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

namespace quern {
namespace {

struct FreeAddresses {
  void operator()(addrinfo* addresses) const { freeaddrinfo(addresses); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

// Null with a reason in `error`.
Addresses Resolve(absl::string_view address, std::string* error) {
  const size_t colon = address.rfind(':');
  absl::string_view host = address.substr(0, colon);
  absl::ConsumePrefix(&host, "[");
  absl::ConsumeSuffix(&host, "]");
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(
      std::string(host).c_str(), std::string(address.substr(colon + 1)).c_str(),
      &hints, &found);
  if (failure != 0) {
    *error = gai_strerror(failure);
    return nullptr;
  }
  return Addresses(found);
}

int OpenSocket(const addrinfo& address) {
  return socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, 0);
}

}  // namespace

std::string WithPort(absl::string_view address, int port) {
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

std::string ListenError(absl::string_view address) {
  std::string error;
  const Addresses found = Resolve(address, &error);
  if (found == nullptr) return error;
  const int descriptor = OpenSocket(*found);
  if (descriptor < 0) return std::strerror(errno);
  const absl::Cleanup close_socket = [descriptor] { close(descriptor); };
  // As servers do: a port whose last connections time out is free.
  const int on = 1;
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool can_listen =
      bind(descriptor, found->ai_addr, found->ai_addrlen) == 0 &&
      listen(descriptor, 1) == 0;
  return can_listen ? "" : std::strerror(errno);
}

void Knock(absl::string_view address) {
  std::string error;
  const Addresses found = Resolve(address, &error);
  if (found == nullptr) return;
  const int descriptor = OpenSocket(*found);
  if (descriptor < 0) return;
  static_cast<void>(connect(descriptor, found->ai_addr, found->ai_addrlen));
  close(descriptor);
}

}  // namespace quern
