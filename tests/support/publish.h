#pragma once

namespace quern {

#ifdef __SANITIZE_THREAD__
// What the calling thread did before this is there for whoever takes a lock
// after it. For what gRPC orders, which ThreadSanitizer does not see: its
// threads serve every server of a process, also one that is made later.
extern "C" void PublishToAllThreads();  // tsan_mutex.cc
#else
inline void PublishToAllThreads() {}
#endif

}  // namespace quern
