#include "engine/model/model_registry.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "engine/base/error.h"

namespace quern {

void ModelRegistry::Put(std::shared_ptr<const Model> model) {
  const std::string name = model->info().name;
  absl::MutexLock lock(&mutex_);
  // The old model, if any, leaves with `model`: after the lock is released.
  models_[name].swap(model);
  if (model != nullptr) Leave(model);
  if (default_name_.empty()) default_name_ = name;
}

absl::StatusOr<std::shared_ptr<const Model>> ModelRegistry::Get(
    absl::string_view name) const {
  absl::MutexLock lock(&mutex_);
  if (name.empty() && models_.empty()) {
    return absl::FailedPreconditionError(
        "no model is loaded: name a package folder in models.paths");
  }
  const auto found = models_.find(name.empty() ? default_name_ : name);
  if (found == models_.end()) return NotFound("model", name);
  return found->second;
}

std::vector<std::shared_ptr<const Model>> ModelRegistry::List() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<const Model>> models;
  models.reserve(models_.size());
  for (const auto& [name, model] : models_) models.push_back(model);
  return models;
}

void ModelRegistry::Leave(const std::shared_ptr<const Model>& model) {
  std::erase_if(leaving_, [](const auto& left) { return left.expired(); });
  leaving_.push_back(model);
}

std::vector<std::shared_ptr<const Model>> ModelRegistry::Draining() const {
  std::vector<std::shared_ptr<const Model>> models;
  absl::MutexLock lock(&mutex_);
  for (const std::weak_ptr<const Model>& leaving : leaving_) {
    std::shared_ptr<const Model> model = leaving.lock();
    if (model != nullptr) models.push_back(std::move(model));
  }
  return models;
}

absl::Status ModelRegistry::Remove(absl::string_view name) {
  // Outlives the lock: freeing a model takes a while.
  std::shared_ptr<const Model> removed;
  absl::MutexLock lock(&mutex_);
  const auto found = models_.find(name);
  if (found == models_.end()) return NotFound("model", name);
  if (found->first == default_name_) {
    return absl::FailedPreconditionError(
        absl::StrCat("model ", Quoted(name),
                     " is the default: make another model the default first"));
  }
  removed = std::move(found->second);
  Leave(removed);
  models_.erase(found);
  return absl::OkStatus();
}

absl::Status ModelRegistry::SetDefault(absl::string_view name) {
  absl::MutexLock lock(&mutex_);
  if (!models_.contains(name)) return NotFound("model", name);
  default_name_ = std::string(name);
  return absl::OkStatus();
}

std::string ModelRegistry::default_name() const {
  absl::MutexLock lock(&mutex_);
  return default_name_;
}

}  // namespace quern
