# cmake -DINPUT=file -DOUTPUT=file.cc -P embed_file.cmake
# Writes a source file with INPUT's bytes as quern::BuiltInDescriptorSet().
file(READ "${INPUT}" hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE "${OUTPUT}" "#include \"server/config_table.h\"

namespace quern {
namespace {

constexpr unsigned char kBytes[] = {${bytes}};

}  // namespace

absl::string_view BuiltInDescriptorSet() {
  return {reinterpret_cast<const char*>(kBytes), sizeof kBytes};
}

}  // namespace quern
")
