#include "engine/base/guard.h"

#include <new>
#include <stdexcept>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/base/utf8.h"
#include "tests/support/status_matchers.h"

namespace quern {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

// Stands for a third-party library: each call throws what it is told to.
template <typename Exception>
struct ThrowingLibrary {
  Exception exception;

  void Run() const { throw exception; }
  int Count() const { throw exception; }
  absl::Status Check() const { throw exception; }
  absl::StatusOr<int> Find() const { throw exception; }
};

TEST(GuardTest, PassesResultsThrough) {
  EXPECT_THAT(Guard("library", [] {}), IsOk());
  EXPECT_EQ(ValueOrDie(Guard("library", [] { return 7; })), 7);
  EXPECT_THAT(Guard("library", [] { return absl::AbortedError("no"); }),
              StatusIs(absl::StatusCode::kAborted, "no"));
  EXPECT_EQ(ValueOrDie(Guard("library", [] { return absl::StatusOr<int>(7); })),
            7);
}

TEST(GuardTest, CatchesExceptionsOfEveryKindOfCall) {
  const ThrowingLibrary<std::runtime_error> library{
      std::runtime_error("shape mismatch")};
  const auto is_error =
      StatusIs(absl::StatusCode::kInternal, "library: shape mismatch");

  EXPECT_THAT(Guard("library", [&] { library.Run(); }), is_error);
  EXPECT_THAT(Guard("library", [&] { return library.Count(); }), is_error);
  EXPECT_THAT(Guard("library", [&] { return library.Check(); }), is_error);
  EXPECT_THAT(Guard("library", [&] { return library.Find(); }), is_error);
}

TEST(GuardTest, OutOfMemoryIsResourceExhausted) {
  const ThrowingLibrary<std::bad_alloc> library;
  EXPECT_THAT(
      Guard("library", [&] { library.Run(); }),
      StatusIs(absl::StatusCode::kResourceExhausted, "library: out of memory"));
}

TEST(GuardTest, CatchesWhatIsNoStandardException) {
  const ThrowingLibrary<int> library{42};
  EXPECT_THAT(
      Guard("library", [&] { library.Run(); }),
      StatusIs(absl::StatusCode::kInternal, "library: unknown exception"));
}

TEST(GuardTest, CutsLongMessagesAndStackTraces) {
  const ThrowingLibrary<std::runtime_error> tracing{
      std::runtime_error("bad size\nException raised from f at a.cpp:1\n#0")};
  EXPECT_THAT(
      Guard("library", [&] { tracing.Run(); }),
      StatusIs(absl::StatusCode::kInternal,
               testing::AllOf(EndsWith("bad size"), Not(HasSubstr("#0")))));

  const ThrowingLibrary<std::runtime_error> talkative{
      std::runtime_error(std::string(100'000, 'x'))};
  EXPECT_LT(Guard("library", [&] { talkative.Run(); }).message().size(), 1000u);
}

TEST(GuardTest, MessagesAreUtf8) {
  const ThrowingLibrary<std::runtime_error> quoting{
      std::runtime_error("near '\xfd\xff'")};
  EXPECT_EQ(Guard("library", [&] { quoting.Run(); }).message(),
            "library: near \\'\\xfd\\xff\\'");
  // The cut goes around a character.
  std::string umlauts = "x";
  for (int i = 0; i < 1000; ++i) umlauts += "ä";
  const ThrowingLibrary<std::runtime_error> cut{std::runtime_error(umlauts)};
  const absl::Status status = Guard("library", [&] { cut.Run(); });
  EXPECT_TRUE(IsValidUtf8(status.message()));
  EXPECT_THAT(std::string(status.message()), EndsWith("ää"));
}

}  // namespace
}  // namespace quern
