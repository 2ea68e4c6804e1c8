#include "templates/attention/plan_mods.h"

#include <cstring>

#include <fmt/format.h>

#include "sagegen/error.h"

namespace sagegen::attention {

using runtime::ArgumentCheck;
using runtime::ArgumentError;

namespace {

template <typename Arguments>
void refuse_of_absent(const char* mod, const Kernel& kernel, const Arguments& arguments) {
  if (arguments == Arguments{}) return;
  throw ArgumentError(
      fmt::format("attention: arguments of {} are given, and kernel {} has no {}; take one with "
                  "{}=true",
                  mod, kernel.key(), mod, mod));
}

void check_memory(ArgumentCheck& check, const std::vector<ModTensor>& tensors) {
  for (const ModTensor& tensor : tensors) {
    check.array(tensor.name, tensor.data, tensor.bytes, tensor.alignment,
                tensor.written ? ArgumentCheck::Access::write : ArgumentCheck::Access::read);
  }
}

// A field of the arguments of a mod, wherever they lie.
struct NamedField {
  std::string name;  // "window.left"
  ParamField field;
  std::byte* at;
};

template <typename Arguments>
void add_fields(std::vector<NamedField>& all, const char* mod, Arguments& arguments) {
  auto* const begin = reinterpret_cast<std::byte*>(&arguments);
  for (const ParamField& field : Arguments::fields())
    all.push_back({fmt::format("{}.{}", mod, field.name), field, begin + field.offset});
}

void refuse(const char* mod, const std::string& why) {
  if (!why.empty()) throw ArgumentError(fmt::format("attention: {}: {}", mod, why));
}

}  // namespace

void set_mod_argument(ModArguments& arguments, std::string_view name, std::int64_t integer,
                      double number) {
  std::vector<NamedField> fields;
#define SAGEGEN_MOD(mod) add_fields(fields, #mod, arguments.mod);
#include "templates/attention/mods/mods.def"
  std::string names;
  for (const NamedField& field : fields) {
    names += (names.empty() ? "" : ", ") + field.name;
    if (field.name != name) continue;
    const bool is_number = field.field.type == "f32";
    if (is_number ? integer != 0 : number != 0) {
      throw ArgumentError(fmt::format("attention: {} is given as {}; it is {}", name,
                                      is_number ? "an integer" : "a number",
                                      is_number ? "a number" : "an integer or an address"));
    }
    const auto narrow = static_cast<float>(number);
    if (is_number) {
      std::memcpy(field.at, &narrow, sizeof(narrow));
    } else {
      if (field.field.bytes != sizeof(integer))
        throw InternalError("a mod's argument is of 4 bytes");
      std::memcpy(field.at, &integer, sizeof(integer));
    }
    return;
  }
  throw ArgumentError(
      fmt::format("attention: a mod's argument {} is unknown; there are {}", name, names));
}

bool mods_need_lse_correction(const Spec& spec) {
  bool need = false;
#define SAGEGEN_MOD(name) need |= spec.name && name::kSeesSmoothing;
#include "templates/attention/mods/mods.def"
  return need;
}

void check_mods(ArgumentCheck& check, const Kernel& kernel, const Spec& spec,
                const ModArguments& arguments, const ModCall& call) {
#define SAGEGEN_MOD(mod)                                    \
  if (spec.mod) {                                           \
    refuse(#mod, mod::refusal(arguments.mod, call));        \
    check_memory(check, mod::tensors(arguments.mod, call)); \
  } else {                                                  \
    refuse_of_absent(#mod, kernel, arguments.mod);          \
  }
#include "templates/attention/mods/mods.def"
}

void set_mod_params(ParamPack& params, const Spec& spec, const ModArguments& arguments,
                    const ModCall& call) {
#define SAGEGEN_MOD(name) \
  if (spec.name) params.set(name::params(arguments.name, call));
#include "templates/attention/mods/mods.def"
}

ModArguments part_of(const ModArguments& arguments, const Spec& spec, const ModCall& call,
                     const ModPart& part) {
  ModArguments of_part = arguments;
#define SAGEGEN_MOD(name) \
  if (spec.name) of_part.name = name::part(arguments.name, call, part);
#include "templates/attention/mods/mods.def"
  return of_part;
}

}  // namespace sagegen::attention
