// Fills TorchScript skeletons with the tensors of safetensors files and writes
// a model package folder.
//
//   quern-assemble --recipe FILE --weights NAME=FILE... --output DIR
//
// A skeleton is a TorchScript file whose parameters have their final shape but
// no data of their own. The recipe (JSON) says which tensor fills which
// parameter:
//
//   {"modules": [{"skeleton": "skeletons/image.ts", "output": "image.ts",
//                 "sources": [{"weights": "NAME", "from": "", "to":
//                 "backbone."}]}],
//    "files": [{"input": "model.json", "output": "model.json"},
//              {"weights": "NAME", "output": "vocab.txt"}],
//    "ignore": [{"weights": "NAME", "tensors": ["pooler.dense.bias"]}]}
//
// A tensor named `from` + x fills the parameter or buffer `to` + x. Paths are
// relative to the recipe. A parameter without a tensor, a tensor without a use
// and a shape that differs are errors: nothing is written then.
//
// The package appears under --output in one rename; an interrupted run leaves
// at most a folder beside it whose name ends in ".part", which the next run
// removes.

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <torch/script.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // The limit of the format.

[[noreturn]] void Fail(const std::string& message) {
  throw std::runtime_error(message);
}

std::string ReadFile(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) Fail(path.string() + ": cannot be opened");
  std::string bytes((std::istreambuf_iterator<char>(stream)),
                    std::istreambuf_iterator<char>());
  if (stream.bad()) Fail(path.string() + ": cannot be read");
  return bytes;
}

c10::ScalarType ScalarTypeOf(const std::string& name) {
  if (name == "F32") return c10::kFloat;
  if (name == "F16") return c10::kHalf;
  if (name == "I64") return c10::kLong;
  Fail("tensor type " + name + " is not supported");
}

// The tensors of one safetensors file: 8 bytes of little-endian header length,
// a JSON header with type, shape and byte range of each tensor, then the data.
class WeightFile {
 public:
  explicit WeightFile(fs::path path)
      : path_(std::move(path)), bytes_(ReadFile(path_)) {
    uint64_t header_bytes = 0;
    if (bytes_.size() < sizeof(header_bytes))
      Fail(path_.string() + ": truncated");
    std::memcpy(&header_bytes, bytes_.data(), sizeof(header_bytes));
    if (header_bytes > kMaxHeaderBytes ||
        header_bytes > bytes_.size() - sizeof(header_bytes)) {
      Fail(path_.string() + ": not a safetensors file");
    }
    data_ = bytes_.data() + sizeof(header_bytes) + header_bytes;
    data_bytes_ = bytes_.size() - sizeof(header_bytes) - header_bytes;
    header_ = Json::parse(bytes_.begin() + sizeof(header_bytes),
                          bytes_.begin() + sizeof(header_bytes) + header_bytes);
    header_.erase("__metadata__");
    for (const auto& entry : header_.items()) unused_.insert(entry.key());
  }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : header_.items()) names.push_back(entry.key());
    return names;
  }

  // Returns a copy, as `type`, and counts the tensor as used.
  at::Tensor Take(const std::string& name, c10::ScalarType type) {
    const Json& entry = header_.at(name);
    const auto shape = entry.at("shape").get<std::vector<int64_t>>();
    const auto range = entry.at("data_offsets").get<std::vector<uint64_t>>();
    const c10::ScalarType stored =
        ScalarTypeOf(entry.at("dtype").get<std::string>());
    uint64_t wanted_bytes = c10::elementSize(stored);
    for (const int64_t side : shape)
      wanted_bytes *= static_cast<uint64_t>(side);
    if (range.size() != 2 || range[0] > range[1] || range[1] > data_bytes_ ||
        range[1] - range[0] != wanted_bytes) {
      Fail(path_.string() + ": " + name +
           ": byte range does not fit its shape");
    }
    at::Tensor tensor = at::empty(shape, stored);
    std::memcpy(tensor.data_ptr(), data_ + range[0], wanted_bytes);
    unused_.erase(name);
    return tensor.to(type);
  }

  void Ignore(const std::string& name) {
    if (!header_.contains(name))
      Fail(path_.string() + ": no tensor " + name + " to ignore");
    unused_.erase(name);
  }

  void CheckAllUsed() const {
    if (unused_.empty()) return;
    Fail(path_.string() + ": " + std::to_string(unused_.size()) +
         " tensors left over, first " + *unused_.begin());
  }

 private:
  fs::path path_;
  std::string bytes_;
  const char* data_ = nullptr;  // Into `bytes_`.
  uint64_t data_bytes_ = 0;
  Json header_;
  std::set<std::string> unused_;
};

std::string ShapeText(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

// The parameters and buffers of a skeleton, by dotted name, until each is
// filled.
class Slots {
 public:
  explicit Slots(const torch::jit::Module& module) { Collect(module, ""); }

  // False when no parameter or buffer has this name.
  bool Fill(const std::string& name, WeightFile& weights,
            const std::string& tensor_name) {
    const auto slot = slots_.find(name);
    if (slot == slots_.end()) return false;
    const at::Tensor empty =
        slot->second.owner.attr(slot->second.attribute).toTensor();
    at::Tensor filled = weights.Take(tensor_name, empty.scalar_type());
    if (filled.sizes() != empty.sizes()) {
      Fail(name + ": shape " + ShapeText(filled.sizes()) + " where " +
           ShapeText(empty.sizes()) + " is expected");
    }
    slot->second.owner.setattr(slot->second.attribute, filled);
    slots_.erase(slot);
    return true;
  }

  void CheckAllFilled() const {
    if (slots_.empty()) return;
    Fail(std::to_string(slots_.size()) + " parameters not filled, first " +
         slots_.begin()->first);
  }

 private:
  struct Slot {
    torch::jit::Module owner;
    std::string attribute;
  };

  void Collect(const torch::jit::Module& module, const std::string& prefix) {
    for (const auto& parameter : module.named_parameters(/*recurse=*/false)) {
      slots_.emplace(prefix + parameter.name, Slot{module, parameter.name});
    }
    for (const auto& buffer : module.named_buffers(/*recurse=*/false)) {
      slots_.emplace(prefix + buffer.name, Slot{module, buffer.name});
    }
    for (const auto& child : module.named_children()) {
      Collect(child.value, prefix + child.name + ".");
    }
  }

  std::map<std::string, Slot> slots_;
};

using WeightFiles = std::map<std::string, WeightFile>;

void FillModule(const Json& recipe, const fs::path& folder,
                WeightFiles& weights, const fs::path& output) {
  const auto name = recipe.at("skeleton").get<std::string>();
  torch::jit::Module module = torch::jit::load((folder / name).string());
  Slots slots(module);
  for (const Json& source : recipe.at("sources")) {
    WeightFile& file = weights.at(source.at("weights").get<std::string>());
    const auto from = source.at("from").get<std::string>();
    const auto to = source.at("to").get<std::string>();
    for (const std::string& tensor : file.Names()) {
      if (tensor.compare(0, from.size(), from) != 0) continue;
      slots.Fill(to + tensor.substr(from.size()), file, tensor);
    }
  }
  slots.CheckAllFilled();
  module.eval();
  module.save(output.string());
}

void Sync(const fs::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) Fail(path.string() + ": " + std::strerror(errno));
  const int failed = fsync(descriptor);
  close(descriptor);
  if (failed != 0) Fail(path.string() + ": fsync: " + std::strerror(errno));
}

void SyncTree(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    Sync(entry.path());
  Sync(folder);
}

// Moves `part` to `output`; an older package there is replaced.
void Publish(const fs::path& part, const fs::path& output) {
  SyncTree(part);
  const fs::path old = output.string() + ".old.part";
  fs::remove_all(old);
  if (fs::exists(output)) fs::rename(output, old);
  fs::rename(part, output);
  Sync(output.parent_path());
  fs::remove_all(old);
}

void CopyFiles(const Json& files, const fs::path& folder,
               const std::map<std::string, fs::path>& inputs,
               const fs::path& part) {
  for (const Json& file : files) {
    const fs::path source =
        file.contains("weights")
            ? inputs.at(file.at("weights").get<std::string>())
            : folder / file.at("input").get<std::string>();
    const fs::path target = part / file.at("output").get<std::string>();
    fs::create_directories(target.parent_path());
    fs::copy_file(source, target);
  }
}

struct Arguments {
  fs::path recipe;
  fs::path output;
  std::map<std::string, fs::path> inputs;  // By the name the recipe uses.
};

Arguments ParseArguments(int argc, char** argv) {
  const std::string usage =
      "usage: quern-assemble --recipe FILE --weights NAME=FILE... --output DIR";
  Arguments arguments;
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i];
    if (i + 1 == argc) Fail(usage);
    const std::string value = argv[i + 1];
    const size_t equals = value.find('=');
    if (option == "--recipe") {
      arguments.recipe = value;
    } else if (option == "--output") {
      arguments.output = fs::absolute(value).lexically_normal();
    } else if (option == "--weights" && equals != std::string::npos) {
      arguments.inputs[value.substr(0, equals)] = value.substr(equals + 1);
    } else {
      Fail(usage);
    }
  }
  if (arguments.recipe.empty() || arguments.output.empty()) Fail(usage);
  return arguments;
}

void Assemble(const Arguments& arguments) {
  const Json recipe = Json::parse(ReadFile(arguments.recipe));
  const fs::path folder = arguments.recipe.parent_path();
  WeightFiles weights;
  for (const auto& [name, path] : arguments.inputs) {
    if (path.extension() == ".safetensors") weights.emplace(name, path);
  }
  const fs::path part = arguments.output.string() + ".part";
  fs::remove_all(part);
  fs::create_directories(part);
  for (const Json& module : recipe.at("modules")) {
    FillModule(module, folder, weights,
               part / module.at("output").get<std::string>());
  }
  for (const Json& ignored : recipe.at("ignore")) {
    WeightFile& file = weights.at(ignored.at("weights").get<std::string>());
    for (const Json& tensor : ignored.at("tensors"))
      file.Ignore(tensor.get<std::string>());
  }
  for (const auto& [name, file] : weights) file.CheckAllUsed();
  CopyFiles(recipe.at("files"), folder, arguments.inputs, part);
  Publish(part, arguments.output);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Assemble(ParseArguments(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "quern-assemble: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
