#pragma once

#include "rocksdb/env.h"

namespace quern {

// Has RocksDB's flushes and compactions, a third of what it takes to store an
// item, give way to calls, as the writes of streams do.
class BulkEnv : public rocksdb::EnvWrapper {
 public:
  // `base` must outlive it.
  explicit BulkEnv(rocksdb::Env* base) : EnvWrapper(base) {}

  void Schedule(void (*function)(void*), void* argument, Priority priority,
                void* tag, void (*unscheduled)(void*)) override;
};

}  // namespace quern
