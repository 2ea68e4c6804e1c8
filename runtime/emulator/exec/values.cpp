#include "runtime/emulator/exec/values.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

namespace sagegen::emulator {
namespace {

struct SpecialName {
  const char* name;
  Special which;
  bool wide;
};
constexpr SpecialName kSpecials[] = {
    {"%tid.x", Special::tid_x, false},
    {"%tid.y", Special::tid_y, false},
    {"%tid.z", Special::tid_z, false},
    {"%ntid.x", Special::ntid_x, false},
    {"%ntid.y", Special::ntid_y, false},
    {"%ntid.z", Special::ntid_z, false},
    {"%ctaid.x", Special::ctaid_x, false},
    {"%ctaid.y", Special::ctaid_y, false},
    {"%ctaid.z", Special::ctaid_z, false},
    {"%nctaid.x", Special::nctaid_x, false},
    {"%nctaid.y", Special::nctaid_y, false},
    {"%nctaid.z", Special::nctaid_z, false},
    {"%laneid", Special::laneid, false},
    {"%warpid", Special::warpid, false},
    {"%nwarpid", Special::nwarpid, false},
    {"%smid", Special::smid, false},
    {"%nsmid", Special::nsmid, false},
    {"%lanemask_eq", Special::lanemask_eq, false},
    {"%lanemask_lt", Special::lanemask_lt, false},
    {"%lanemask_le", Special::lanemask_le, false},
    {"%lanemask_gt", Special::lanemask_gt, false},
    {"%lanemask_ge", Special::lanemask_ge, false},
    {"%dynamic_smem_size", Special::dynamic_smem_size, false},
    {"%total_smem_size", Special::total_smem_size, false},
    {"%gridid", Special::gridid, true},
    {"%clock", Special::clock, false},
    {"%clock64", Special::clock64, true},
    {"%globaltimer", Special::globaltimer, true},
    {"%clock_hi", Special::clock, false},
    {"%globaltimer_lo", Special::globaltimer, false},
    {"%globaltimer_hi", Special::globaltimer, false},
};

std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
  return to <= 1 ? value : (value + to - 1) / to * to;
}

// Names of variables that the body mentions: unused module variables take no shared memory.
void collect_names(const std::vector<ptx::Operand>& operands, std::set<std::string>& names) {
  for (const ptx::Operand& operand : operands) {
    if (operand.kind == ptx::Operand::Kind::symbol || operand.kind == ptx::Operand::Kind::address) {
      names.insert(operand.text);
    }
    collect_names(operand.elements, names);
  }
}

// What an address space of the emulator holds. Devices have less, which the driver side enforces.
constexpr std::size_t kMaxSpace = kWindowBytes / 2;

// Places a variable at the next aligned offset and returns where it ends.
std::size_t place_variable(const ptx::Variable& v, std::size_t& at, const char* what) {
  at = round_up(at, v.align);
  if (v.bytes > kMaxSpace || at > kMaxSpace - v.bytes) {
    throw ptx::ParseError(
        v.line, fmt::format("{} needs more than {} bytes of {} memory", v.name, kMaxSpace, what));
  }
  return at + v.bytes;
}

std::size_t lay_out(const std::vector<ptx::Variable>& variables, std::size_t start,
                    const std::set<std::string>* used, const char* what,
                    std::map<std::string, std::size_t>& offsets) {
  std::size_t end = start;
  std::size_t next = start;
  for (const ptx::Variable& v : variables) {
    if (v.bytes == 0 || v.is_extern || (used != nullptr && !used->contains(v.name))) continue;
    // Frames of calls lie over each other.
    if (v.place) next = start + std::min<std::size_t>(*v.place, kMaxSpace);
    const std::size_t behind = place_variable(v, next, what);
    offsets[v.name] = next;
    next = behind;
    end = std::max(end, behind);
  }
  return end;
}

}  // namespace

bool is_clock(std::string_view name) {
  return name == "%clock64" || name.starts_with("%globaltimer") || name == "%clock" ||
         name == "%clock_hi";
}

ValueTable::ValueTable(const ptx::Module& module, const ptx::Function& function,
                       const SymbolAddresses& globals, Program& program)
    : globals_(globals) {
  row_sink_ = add(ValueKind::row64, true);
  predicate_sink_ = add(ValueKind::predicate, true);
  always_ = add(ValueKind::predicate, true);
  never_ = add(ValueKind::predicate, true);
  for (const ptx::Register& r : function.registers) {
    ValueKind kind = r.type == ptx::Register::Type::pred  ? ValueKind::predicate
                     : r.type == ptx::Register::Type::b16 ? ValueKind::row16
                     : r.type == ptx::Register::Type::b32 ? ValueKind::row32
                                                          : ValueKind::row64;
    registers_.emplace(r.name, add(kind, false));
  }
  lay_out_symbols(module, function, program);
}

std::uint32_t ValueTable::add(ValueKind kind, bool fixed) {
  values_.push_back({.kind = kind, .fixed = fixed});
  return static_cast<std::uint32_t>(values_.size() - 1);
}

void ValueTable::lay_out_symbols(const ptx::Module& module, const ptx::Function& function,
                                 Program& program) {
  std::size_t offset = 0;
  for (const ptx::Variable& v : function.params) {
    std::size_t end = place_variable(v, offset, "parameter");
    program.info.params.push_back({v.name, offset, v.bytes});
    symbols_[v.name] = {Space::param, offset};
    offset = end;
  }
  program.info.param_bytes = offset;

  std::map<std::string, std::size_t> local;
  std::size_t local_end = lay_out(function.local, kLocalStart, nullptr, "local", local);
  for (const auto& [name, at] : local) symbols_[name] = {Space::local, at};
  for (const ptx::Variable& v : function.local) symbols_[v.name].role = v.role;
  program.info.local_bytes = local_end - kLocalStart;

  std::set<std::string> used;
  for (const ptx::Instruction& i : function.body) collect_names(i.operands, used);
  // Those of the module that this function uses, in the order of the text.
  std::set<std::size_t> used_of_module;
  for (const std::string& name : used) {
    const auto found = module.shared_index.find(name);
    if (found != module.shared_index.end()) used_of_module.insert(found->second);
  }
  std::vector<ptx::Variable> module_shared;
  for (const std::size_t index : used_of_module) module_shared.push_back(module.shared[index]);

  std::map<std::string, std::size_t> shared;
  std::size_t shared_end = lay_out(module_shared, kSharedStart, &used, "shared", shared);
  shared_end = lay_out(function.shared, shared_end, &used, "shared", shared);
  program.info.static_shared_bytes = shared_end - kSharedStart;

  // All dynamic arrays start at the same place, after the static ones, at the strictest alignment.
  std::size_t dynamic = shared_end;
  for (const std::vector<ptx::Variable>* list : {&std::as_const(module_shared), &function.shared}) {
    for (const ptx::Variable& v : *list) {
      if ((v.is_extern || v.bytes == 0) && used.contains(v.name)) {
        dynamic = std::max<std::size_t>(dynamic, round_up(shared_end, v.align));
      }
    }
  }
  for (const std::vector<ptx::Variable>* list : {&std::as_const(module_shared), &function.shared}) {
    for (const ptx::Variable& v : *list) {
      if (v.is_extern || v.bytes == 0) symbols_[v.name] = {Space::shared, dynamic};
    }
  }
  for (const auto& [name, at] : shared) symbols_[name] = {Space::shared, at};
  program.dynamic_shared_offset = dynamic;
}

const std::uint32_t* ValueTable::find_register(const std::string& name) {
  auto found = registers_.find(name);
  if (found != registers_.end()) return &found->second;
  for (const SpecialName& special : kSpecials) {
    if (name != special.name) continue;
    std::uint32_t id = add(special.wide ? ValueKind::row64 : ValueKind::row32, true);
    specials_.push_back({id, special.which});
    return &registers_.emplace(name, id).first->second;
  }
  return nullptr;
}

std::uint32_t ValueTable::constant(std::uint64_t value, ValueKind kind) {
  if (kind == ValueKind::row16) value &= 0xffff;
  if (kind == ValueKind::row32) value &= 0xffff'ffff;
  if (kind == ValueKind::row16) kind = ValueKind::row32;  // the same row serves both
  auto found = constants_.find({value, kind});
  if (found != constants_.end()) return found->second;
  std::uint32_t id = add(kind, true);
  constants_.emplace(std::pair{value, kind}, id);
  return id;
}

std::uint32_t ValueTable::fixed_predicate(std::uint16_t number) const {
  return number == kAlways ? always_ : never_;
}

std::uint32_t ValueTable::condition_code() {
  if (condition_code_ == 0) condition_code_ = add(ValueKind::predicate, false);
  return condition_code_;
}

const ValueTable::Symbol* ValueTable::find_symbol(const std::string& name) {
  if (auto found = symbols_.find(name); found != symbols_.end()) return &found->second;
  const auto global = globals_.find(name);
  if (global == globals_.end()) return nullptr;
  return &symbols_.emplace(name, Symbol{Space::global, global->second}).first->second;
}

void ValueTable::place(const SlotAssignment& slots, Program& program) {
  std::uint32_t rows = slots.rows;
  auto take = [&](std::uint32_t id) {
    values_[id].place = static_cast<std::uint16_t>(rows);
    rows += values_[id].kind == ValueKind::row64 ? 2 : 1;
  };
  std::uint32_t predicates = kFirstPredicate;
  for (std::size_t id = 0; id < values_.size(); ++id) {
    if (values_[id].fixed) continue;
    values_[id].place = values_[id].kind == ValueKind::predicate
                            ? static_cast<std::uint16_t>(predicates++)
                            : static_cast<std::uint16_t>(slots.row[id]);
  }
  take(row_sink_);
  values_[predicate_sink_].place = kPredicateSink;
  values_[always_].place = kAlways;
  values_[never_].place = kNever;
  for (const auto& [key, id] : constants_) {
    take(id);
    program.constants.push_back(
        {values_[id].place, values_[id].kind == ValueKind::row64, key.first});
  }
  for (const SpecialValue& special : specials_) {
    take(special.id);
    program.specials.push_back(
        {values_[special.id].place, values_[special.id].kind == ValueKind::row64, special.which});
  }
  program.rows = rows;
  program.predicates = predicates;
}

}  // namespace sagegen::emulator
