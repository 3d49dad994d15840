// Tells ThreadSanitizer about absl::Mutex, which lies in a library that Debian
// builds without it. cmake/QuernBuild.cmake has the linker send the calls here
// (--wrap). What a Condition reads is read inside that library by whichever
// thread holds the mutex, so reads are ignored during the call.

#include "absl/time/time.h"
#include <sanitizer/tsan_interface.h>

extern "C" {

void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);

// NOLINTBEGIN: the names are the linker's.
#define QUERN_WRAP_ACQUIRE(symbol)                \
  void __real_##symbol(void* mutex);              \
  void __wrap_##symbol(void* mutex) {             \
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__); \
    __real_##symbol(mutex);                       \
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);   \
    __tsan_acquire(mutex);                        \
  }
#define QUERN_WRAP_RELEASE(symbol)                \
  void __real_##symbol(void* mutex);              \
  void __wrap_##symbol(void* mutex) {             \
    __tsan_release(mutex);                        \
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__); \
    __real_##symbol(mutex);                       \
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);   \
  }

QUERN_WRAP_ACQUIRE(_ZN4absl7debian35Mutex4LockEv)
QUERN_WRAP_ACQUIRE(_ZN4absl7debian35Mutex10ReaderLockEv)
QUERN_WRAP_RELEASE(_ZN4absl7debian35Mutex6UnlockEv)
QUERN_WRAP_RELEASE(_ZN4absl7debian35Mutex12ReaderUnlockEv)

void __real__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(
    void* mutex, const void* condition);
void __wrap__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(
    void* mutex, const void* condition) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  __real__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(mutex, condition);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
}

bool __real__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
    void* mutex, const void* condition, absl::Duration timeout);
bool __wrap__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
    void* mutex, const void* condition, absl::Duration timeout) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool met =
      __real__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
          mutex, condition, timeout);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
  return met;
}
// NOLINTEND

}  // extern "C"
