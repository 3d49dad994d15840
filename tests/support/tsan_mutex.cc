// Tells ThreadSanitizer about absl::Mutex, CondVar, Notification and
// BlockingCounter, which lie in a library that Debian builds without it.
// cmake/QuernBuild.cmake has the linker send the calls here
// (--wrap). What a Condition reads is read inside that library by whichever
// thread holds the mutex, so reads are ignored during the call.

#include "absl/time/time.h"
#include <sanitizer/tsan_interface.h>

namespace {
char published;
}  // namespace

extern "C" {

void PublishToAllThreads() { __tsan_release(&published); }

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
    __tsan_acquire(&published);                   \
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
QUERN_WRAP_RELEASE(_ZN4absl7debian312Notification6NotifyEv)
QUERN_WRAP_ACQUIRE(_ZNK4absl7debian312Notification19WaitForNotificationEv)
QUERN_WRAP_ACQUIRE(_ZN4absl7debian315BlockingCounter4WaitEv)

bool __real__ZN4absl7debian35Mutex7TryLockEv(void* mutex);
bool __wrap__ZN4absl7debian35Mutex7TryLockEv(void* mutex) {
  const bool is_locked = __real__ZN4absl7debian35Mutex7TryLockEv(mutex);
  if (is_locked) __tsan_acquire(mutex);
  return is_locked;
}

bool __real__ZN4absl7debian315BlockingCounter14DecrementCountEv(void* counter);
bool __wrap__ZN4absl7debian315BlockingCounter14DecrementCountEv(void* counter) {
  __tsan_release(counter);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool is_last =
      __real__ZN4absl7debian315BlockingCounter14DecrementCountEv(counter);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  return is_last;
}

void __real__ZN4absl7debian37CondVar4WaitEPNS0_5MutexE(void* condition,
                                                       void* mutex);
void __wrap__ZN4absl7debian37CondVar4WaitEPNS0_5MutexE(void* condition,
                                                       void* mutex) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  __real__ZN4absl7debian37CondVar4WaitEPNS0_5MutexE(condition, mutex);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
}

bool __real__ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE(
    void* condition, void* mutex, absl::Duration timeout);
bool __wrap__ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE(
    void* condition, void* mutex, absl::Duration timeout) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool timed_out =
      __real__ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE(
          condition, mutex, timeout);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
  return timed_out;
}

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
