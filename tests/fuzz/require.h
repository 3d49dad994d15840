#pragma once

#include <cstdlib>
#include <iostream>

// A fuzz target's assertion: what fails it is a finding, in every build.
#define QUERN_FUZZ_REQUIRE(condition)                                          \
  do {                                                                         \
    if (!(condition)) {                                                        \
      std::cerr << __FILE__ << ":" << __LINE__ << ": not true: " << #condition \
                << std::endl;                                                  \
      std::abort();                                                            \
    }                                                                          \
  } while (false)
