#pragma once

#include <unistd.h>

namespace quern {

// While it lives, root has no more rights than others: for tests of what is
// forbidden. Anybody else is left as is.
class Unprivileged {
 public:
  Unprivileged() : dropped_(::geteuid() == 0 && ::seteuid(kNobody) == 0) {}
  ~Unprivileged() {
    if (dropped_) (void)!::seteuid(0);
  }

  Unprivileged(const Unprivileged&) = delete;
  Unprivileged& operator=(const Unprivileged&) = delete;

  // False for root that cannot give up its rights: skip the test.
  bool ok() const { return ::geteuid() != 0; }

 private:
  static constexpr uid_t kNobody = 65534;

  const bool dropped_;
};

}  // namespace quern
