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

std::string refusal(const ptx::Instruction& instruction) {
  // Is it the opcode or its modifiers that nobody knows?
  static const std::set<std::string, std::less<>> kParsedOpcodes = {"ld",   "ldu", "st",  "cvt",
                                                                    "atom", "red", "mma", "cp"};
  bool known =
      kParsedOpcodes.contains(instruction.opcode) || form_table().knows_opcode(instruction.opcode);
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

std::vector<Form> find_forms(const ptx::Instruction& instruction, const FormTable& table) {
  std::vector<Form> fixed;
  if (const std::vector<Form>* found = table.find(text_of(instruction))) fixed = *found;
  // Some conversions have a quick form for the usual registers beside the general one.
  if (!fixed.empty() && instruction.opcode != "cvt") return fixed;
  using Family = std::vector<Form> (*)(const ptx::Instruction&);
  for (Family family : {convert_forms, memory_forms, atomic_forms, mma_forms, async_forms}) {
    std::vector<Form> forms = family(instruction);
    fixed.insert(fixed.end(), forms.begin(), forms.end());
    if (!forms.empty()) return fixed;
  }
  throw UnknownForm(refusal(instruction));
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
