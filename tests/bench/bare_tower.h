#pragma once

#include <memory>
#include <string>

#include "absl/types/span.h"

#include "engine/model/encoder.h"

namespace quern {

// How LibTorch is asked to run a tower.
struct BareTowerOptions {
  bool optimized = false;  // Frozen, then optimize_for_inference().
  bool bf16 = false;       // Else fp32.
  int threads = 1;         // Of one forward pass.
};

// A tower of a package as LibTorch alone runs it: what there is without Quern's
// encoder. Passes of one thread may run side by side. Throws what LibTorch
// throws.
class BareTower {
 public:
  // `file` is a TorchScript module.
  BareTower(const std::string& file, const BareTowerOptions& options);
  ~BareTower();

  // One forward pass, padded to the longest text.
  void Run(absl::Span<const Tokens> texts) const;
  // Likewise, in channels_last.
  void Run(const PixelBatch& pictures) const;

 private:
  struct Module;

  BareTowerOptions options_;
  std::unique_ptr<Module> module_;
};

}  // namespace quern
