#pragma once

#include "google/protobuf/duration.pb.h"

namespace quern::cli {

inline double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() / 1e9;
}

}  // namespace quern::cli
