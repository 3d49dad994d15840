#include "tests/model/torchscript_writer.h"

#include <torch/script.h>

namespace quern {

void WriteTorchScript(const std::string& file, const std::string& methods,
                      std::vector<float> weight, int64_t rows,
                      int64_t columns) {
  torch::jit::Module module("tower");
  module.register_attribute("training", c10::BoolType::get(), true);
  module.register_parameter(
      "weight",
      at::from_blob(weight.data(), {rows, columns}, at::kFloat).clone(), false);
  // The parser wants every line ended.
  module.define(methods + "\n");
  module.save(file);
}

}  // namespace quern
