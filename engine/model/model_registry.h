#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

#include "engine/model/model.h"

namespace quern {

// The models that a server holds, by name. Whoever got a model keeps it alive:
// a swap or removal never touches a request under way. Thread-safe.
class ModelRegistry {
 public:
  // Adds the model, or swaps it for the one of that name. The first model
  // becomes the default. `model` is not null.
  void Put(std::shared_ptr<const Model> model);

  // The default model for the empty name.
  // Errors: kNotFound; kFailedPrecondition when the empty name is asked of an
  // empty registry.
  absl::StatusOr<std::shared_ptr<const Model>> Get(
      absl::string_view name) const;

  // In byte order of their names.
  std::vector<std::shared_ptr<const Model>> List() const;

  // Those that were swapped out or removed and still have users.
  std::vector<std::shared_ptr<const Model>> Draining() const;

  // Calls under way finish on it. Errors: kNotFound; kFailedPrecondition for
  // the default model.
  absl::Status Remove(absl::string_view name);

  // Errors: kNotFound.
  absl::Status SetDefault(absl::string_view name);

  // Empty when there is no model.
  std::string default_name() const;

 private:
  using ModelMap =
      std::map<std::string, std::shared_ptr<const Model>, std::less<>>;

  void Leave(const std::shared_ptr<const Model>& model)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  ModelMap models_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<const Model>> leaving_ ABSL_GUARDED_BY(mutex_);
  std::string default_name_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quern
