#include "runtime/emulator/exec/forms.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace sagegen::emulator {
namespace {

// "a{b|c}d" -> "abd", "acd"; groups do not nest.
std::vector<std::string> expand(std::string_view pattern) {
  std::size_t open = pattern.find('{');
  if (open == std::string_view::npos) return {std::string(pattern)};
  std::size_t close = pattern.find('}', open);
  std::vector<std::string> tails = expand(pattern.substr(close + 1));
  std::vector<std::string> result;
  std::string_view choices = pattern.substr(open + 1, close - open - 1);
  for (std::size_t begin = 0; begin <= choices.size();) {
    std::size_t end = std::min(choices.find('|', begin), choices.size());
    for (const std::string& tail : tails) {
      result.push_back(std::string(pattern.substr(0, open)) +
                       std::string(choices.substr(begin, end - begin)) + tail);
    }
    begin = end + 1;
  }
  return result;
}

FormTable build_table(HostLanes lanes) {
  FormTable table;
  register_lanes(table, lanes);
  register_scalar(table);
  register_carry(table);
  register_half(table);
  register_moves(table);
  register_control(table);
  register_exchange(table);
  register_matrix(table);
  register_async(table);
  table.lint("{add|sub|mul}{|.ftz}{|.sat}{.f32|.f64|.f32x2|.f16|.f16x2|.bf16|.bf16x2}",
             "has no rounding modifier, so ptxas may fuse it with another operation and its result "
             "is not defined by this text; write .rn");
  return table;
}

// Types tell operands apart by their order; other modifiers do not.
bool is_type(std::string_view modifier) {
  static const std::set<std::string_view> kTypes = {
      "b8",    "b16",  "b32",    "b64",    "b128", "u4",   "u8",     "u16",    "u32",   "u64",
      "s4",    "s8",   "s16",    "s32",    "s64",  "f16",  "bf16",   "f32",    "tf32",  "f64",
      "e4m3",  "e5m2", "e4m3x2", "e5m2x2", "b1",   "pred", "f16x2",  "bf16x2", "f32x2", "u16x2",
      "s16x2", "u8x4", "s8x4",   "e2m1",   "e3m2", "e2m3", "e2m1x2", "e3m2x2", "e2m3x2"};
  return kTypes.contains(modifier);
}

// The assembler reads the first modifier of these as part of the name: mul.lo, shf.l, cvta.to.
bool keeps_first_modifier(std::string_view opcode) {
  static const std::set<std::string_view> kOpcodes = {
      "mul", "mad",  "madc", "mul24",   "mad24", "div",         "cvta",
      "shf", "dp2a", "bar",  "barrier", "cp",    "createpolicy"};
  return kOpcodes.contains(opcode);
}

// A text with its modifiers sorted, its types as they come and last.
std::string sorted(const std::string& text) {
  std::vector<std::string_view> modifiers, types;
  const std::string_view all = text;
  const auto end_of = [&](std::size_t begin) { return std::min(all.find('.', begin), all.size()); };
  std::size_t at = end_of(0);
  if (keeps_first_modifier(all.substr(0, at)) && at < all.size()) at = end_of(at + 1);
  std::string out(all.substr(0, at));
  while (at < all.size()) {
    const std::size_t end = end_of(at + 1);
    const std::string_view modifier = all.substr(at + 1, end - at - 1);
    (is_type(modifier) ? types : modifiers).push_back(modifier);
    at = end;
  }
  std::sort(modifiers.begin(), modifiers.end());
  for (const auto* list : {&modifiers, &types}) {
    for (const std::string_view modifier : *list) out.append(".").append(modifier);
  }
  return out;
}

// Where the documented order of a parsed family has a modifier; those of one place keep their order.
int place_of(std::string_view opcode, std::string_view modifier) {
  struct Place {
    std::string_view opcodes;  // space before and after each
    int place;
    std::vector<std::string_view> modifiers;
  };
  static const std::vector<Place> kPlaces = {
      {" cvt ", 0, {"rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna"}},
      {" cvt ", 1, {"relu"}},
      {" cvt ", 2, {"satfinite"}},
      {" cvt ", 3, {"ftz"}},
      {" cvt ", 4, {"sat"}},
      {" set ", 0, {"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"}},
      {" set ", 0, {"equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"}},
      {" set ", 1, {"and", "or", "xor"}},
      {" set ", 2, {"ftz"}},
      {" ld ldu st atom red ", 0, {"weak", "volatile", "relaxed", "acquire", "release", "acq_rel"}},
      {" ld ldu st atom red ", 1, {"cta", "cluster", "gpu", "sys"}},
      {" ld ldu st atom red ", 2, {"global", "shared", "shared::cta", "local", "param", "const"}},
      {" ld ldu st ", 2, {"param::entry"}},
      {" ld ldu st ", 4, {"v2", "v4", "v8"}},
      {" atom red ", 4, {"noftz"}},
      {" mma ", 0, {"sync"}},
      {" mma ", 1, {"aligned"}},
      {" mma ", 3, {"row", "col"}},
      {" mma ", 4, {"satfinite"}},
      {" cp ", 0, {"async"}},
      {" cp ", 1, {"ca", "cg"}},
      {" cp ", 2, {"shared", "shared::cta", "global"}},  // destination and source
      {" cp ", 4, {"L2::cache_hint"}}};
  constexpr int kOther = 3, kType = 9;
  if (is_type(modifier)) return kType;
  if (opcode == "mma" && (modifier.starts_with("m8n8") || modifier.starts_with("m16n8"))) return 2;
  for (const Place& each : kPlaces) {
    if (each.opcodes.find(" " + std::string(opcode) + " ") == std::string_view::npos) continue;
    if (std::find(each.modifiers.begin(), each.modifiers.end(), modifier) != each.modifiers.end()) {
      return each.place;
    }
  }
  return opcode == "cp" ? kType : kOther;
}

// Opcodes that are parsed, not looked up.
bool is_parsed(std::string_view opcode) {
  static const std::set<std::string_view> kOpcodes = {"ld",   "ldu", "st",  "cvt", "set",
                                                      "atom", "red", "mma", "cp",  "wmma"};
  return kOpcodes.contains(opcode);
}

ptx::Instruction in_documented_order(const ptx::Instruction& instruction) {
  ptx::Instruction ordered = instruction;
  const bool is_async = !ordered.modifiers.empty() && ordered.modifiers[0] == "async";
  if (!is_parsed(instruction.opcode) || (instruction.opcode == "cp" && !is_async)) return ordered;
  std::stable_sort(ordered.modifiers.begin(), ordered.modifiers.end(),
                   [&](const std::string& a, const std::string& b) {
                     return place_of(instruction.opcode, a) < place_of(instruction.opcode, b);
                   });
  return ordered;
}

std::string refusal(const ptx::Instruction& instruction) {
  // Is it the opcode or its modifiers that nobody knows?
  bool known = is_parsed(instruction.opcode) || form_table().knows_opcode(instruction.opcode);
  return known ? fmt::format("unknown modifiers: the emulator executes {}, but not {}",
                             instruction.opcode, text_of(instruction))
               : fmt::format("unknown instruction {}", text_of(instruction));
}

}  // namespace

void FormTable::add(const char* pattern, const char* format, Handler handler,
                    std::uint32_t number) {
  add_checked(pattern, format, handler, nullptr, Taint::propagate, number);
}

void FormTable::add_checked(const char* pattern, const char* format, Handler plain, Handler checked,
                            Taint taint, std::uint32_t number) {
  Form form;
  form.format = format;
  form.plain = plain;
  form.checked = checked;
  form.taint = taint;
  form.number = number;
  add_form(pattern, form);
}

void FormTable::add_setp(const char* compare, const char* type, const char* format,
                         Handler handler) {
  std::string name = std::string("setp.") + compare;
  std::string with_operand = std::string(format) + 'P';
  add((name + "." + type).c_str(), format, handler, kBoolNone);
  add((name + ".and." + type).c_str(), with_operand.c_str(), handler, kBoolAnd);
  add((name + ".or." + type).c_str(), with_operand.c_str(), handler, kBoolOr);
  add((name + ".xor." + type).c_str(), with_operand.c_str(), handler, kBoolXor);
}

void FormTable::add_form(const std::string& pattern, const Form& form) {
  for (std::string& text : expand(pattern)) {
    opcodes_.insert(text.substr(0, text.find('.')));
    forms_[std::move(text)].push_back(form);
  }
}

void FormTable::lint(const char* pattern, const char* warning) {
  for (const std::string& text : expand(pattern)) {
    auto found = forms_.find(text);
    if (found == forms_.end()) continue;
    for (Form& form : found->second) form.warning = warning;
  }
}

const std::vector<Form>* FormTable::find(const std::string& text) const {
  auto found = forms_.find(text);
  return found == forms_.end() ? nullptr : &found->second;
}

const std::vector<Form>* FormTable::find_reordered(const ptx::Instruction& instruction) const {
  // Of whichever table is asked first: all have the same texts. Most programs never need it.
  static const std::unordered_map<std::string, std::string> by_modifiers = [&] {
    std::unordered_map<std::string, std::string> texts;
    for (const auto& [text, forms] : forms_) texts.emplace(sorted(text), text);
    return texts;
  }();
  auto found = by_modifiers.find(sorted(text_of(instruction)));
  return found == by_modifiers.end() ? nullptr : find(found->second);
}

void register_lanes_baseline(FormTable& table);
#if defined(SAGEGEN_HOST_X86)
void register_lanes_avx2(FormTable& table);
void register_lanes_avx512(FormTable& table);
#endif

void register_lanes(FormTable& table, HostLanes lanes) {
#if defined(SAGEGEN_HOST_X86)
  if (lanes == HostLanes::avx512) return register_lanes_avx512(table);
  if (lanes == HostLanes::avx2) return register_lanes_avx2(table);
#endif
  (void)lanes;
  register_lanes_baseline(table);
}

const FormTable& form_table(HostLanes lanes) {
  switch (lanes) {
    case HostLanes::avx512: {
      static const FormTable table = build_table(HostLanes::avx512);
      return table;
    }
    case HostLanes::avx2: {
      static const FormTable table = build_table(HostLanes::avx2);
      return table;
    }
    case HostLanes::baseline:
      break;
  }
  static const FormTable table = build_table(HostLanes::baseline);
  return table;
}

const FormTable& form_table() { return form_table(host_lanes()); }

namespace {

std::vector<Form> find_as_written(const ptx::Instruction& instruction, const FormTable& table) {
  std::vector<Form> fixed;
  if (const std::vector<Form>* found = table.find(text_of(instruction))) fixed = *found;
  // Some conversions have a quick form for the usual registers beside the general one.
  if (!fixed.empty() && instruction.opcode != "cvt") return fixed;
  using Family = std::vector<Form> (*)(const ptx::Instruction&);
  for (Family family : {convert_forms, set_forms, memory_forms, atomic_forms, mma_forms,
                        async_forms, call_forms, wmma_forms}) {
    std::vector<Form> forms = family(instruction);
    fixed.insert(fixed.end(), forms.begin(), forms.end());
    if (!forms.empty()) return fixed;
  }
  if (const std::vector<Form>* found = table.find_reordered(instruction)) return *found;
  throw UnknownForm(refusal(instruction));
}

}  // namespace

std::vector<Form> find_forms(const ptx::Instruction& instruction, const FormTable& table) {
  try {
    return find_as_written(instruction, table);
  } catch (const UnknownForm&) {
    const ptx::Instruction ordered = in_documented_order(instruction);
    if (ordered.modifiers == instruction.modifiers) throw;
    try {
      return find_as_written(ordered, table);
    } catch (const UnknownForm&) {
    }
    throw;  // what is wrong with the text as it is written
  }
}

std::string text_of(const ptx::Instruction& instruction) {
  std::string text = instruction.opcode;
  for (const std::string& modifier : instruction.modifiers) text += "." + modifier;
  return text;
}

std::string why_unknown(const ptx::Instruction& instruction) {
  try {
    find_forms(instruction, form_table());
    return {};
  } catch (const UnknownForm& e) {
    return e.what();
  }
}

// ---- ModifierReader ----------------------------------------------------------------------------

std::string_view ModifierReader::peek() const {
  return done() ? std::string_view{} : std::string_view(instruction_.modifiers[next_]);
}

bool ModifierReader::take(std::string_view modifier) {
  if (done() || peek() != modifier) return false;
  ++next_;
  return true;
}

std::string_view ModifierReader::take_any(std::initializer_list<std::string_view> modifiers) {
  for (std::string_view modifier : modifiers) {
    if (take(modifier)) return modifier;
  }
  return {};
}

void ModifierReader::refuse(std::string_view expected) const {
  throw UnknownForm(
      done() ? fmt::format("{} ends where {} is expected", text_of(instruction_), expected)
             : fmt::format("unknown modifier .{} of {} (expected {})", peek(),
                           text_of(instruction_), expected));
}

void ModifierReader::finish() const {
  if (!done()) refuse("no further modifier");
}

}  // namespace sagegen::emulator
