// cp.async and its groups. The data of a copy lands when the policy of the launch says so: as late as
// the waits allow, at once, or at random in between. Until the issuing thread has waited, the
// destination is nobody's to touch, whatever the policy.

#include <fmt/format.h>

#include <cstring>

#include "runtime/emulator/exec/checker.h"
#include "runtime/emulator/exec/forms.h"

namespace sagegen::emulator {
namespace {

using runtime::AsyncPolicy;

void land(Warp& w, AsyncCopy& copy, std::uint32_t lanes) {
  Cta& cta = *w.cta;
  for_lanes(lanes & ~copy.landed, [&](int lane) {
    std::uint8_t* to = cta.shared + copy.destination[lane];
    std::uint32_t from_source = copy.source_bytes[lane];
    if (from_source != 0) std::memcpy(to, copy.source[lane], from_source);
    std::memset(to + from_source, 0, copy.bytes - from_source);
    if (cta.checker != nullptr) {
      cta.checker->copy_landed(copy.destination[lane], copy.bytes, from_source,
                               copy.source_written[lane]);
    }
  });
  copy.landed |= lanes;
}

// Under the random policy data may land whenever the warp does something asynchronous.
void land_at_random(Warp& w) {
  if (w.cta->request->options.async != AsyncPolicy::random) return;
  for (AsyncCopy& copy : w.copies) {
    if (w.cta->random.below(4) == 0) {
      land(w, copy, copy.pending & static_cast<std::uint32_t>(w.cta->random.next()));
    }
  }
}

// Finishes the copies of the lanes for which `due` holds, and forgets those that all lanes are done with.
template <class Due>
void wait_for(Warp& w, std::uint32_t mask, Due&& due) {
  land_at_random(w);
  std::size_t kept = 0;
  for (AsyncCopy& copy : w.copies) {
    std::uint32_t lanes = 0;
    for_lanes(mask & copy.pending,
              [&](int lane) { lanes |= static_cast<std::uint32_t>(due(copy, lane)) << lane; });
    land(w, copy, lanes);
    if (w.cta->checker != nullptr) {
      for_lanes(lanes, [&](int lane) {
        w.cta->checker->copy_waited(w, copy.op, lane, copy.destination[lane], copy.bytes);
      });
    }
    copy.pending &= ~lanes;
    if (copy.pending != 0) {
      if (&w.copies[kept] != &copy) w.copies[kept] = copy;
      ++kept;
    }
  }
  w.copies.resize(kept);
}

enum class SourceSize { whole, given, ignore };

// cp.async [destination], [source], size{, source size | ignore predicate}
template <bool kChecked, SourceSize kSize>
void copy_async(Warp& w, const Op& op, std::uint32_t mask) {
  const Access& to = w.program->accesses[op.imm];
  const Access& from = w.program->accesses[op.imm + 1];
  std::uint32_t bytes = to.immediate;
  std::uint32_t lost = 0, no_source = 0;  // lanes that copy nothing; that copy zeros
  if constexpr (kChecked) {
    lost = undefined_addresses(w, op, op.r[0], mask, "destination address");
    no_source = undefined_addresses(w, op, op.r[1], mask, "source address");
    if constexpr (kSize == SourceSize::given) {
      no_source |= require_defined(w, op, op.r[2], mask, "source size");
    }
  }
  LaneAddresses destinations = lane_addresses(w, to, op.r[0]);
  LaneAddresses sources = lane_addresses(w, from, op.r[1]);
  std::uint32_t ignored = kSize == SourceSize::ignore ? predicate_operand(w, op, 2) : 0;

  AsyncCopy& copy = w.copies.emplace_back();
  copy.bytes = static_cast<std::uint8_t>(bytes);
  copy.op = op_index(w, op);
  copy.pending = mask & ~lost;
  copy.landed = 0;
  copy.group = w.open_group;
  for_lanes(mask & ~lost, [&](int lane) {
    std::uint32_t size = bytes;
    if constexpr (kSize == SourceSize::given) size = row32(w, op.r[2])[lane];
    if (((ignored | no_source) >> lane & 1) != 0) size = 0;
    if (size > bytes) {
      report(w, op, lane, "out-of-bounds", [&] {
        return fmt::format("the source size {} exceeds the copy's {} bytes", size, bytes);
      });
      size = bytes;
    }
    Target target = locate(w, op, op.imm, lane, destinations[lane], bytes, "writes");
    if (target.space == Space::nowhere) {
      copy.pending &= ~(1u << lane);
      return;
    }
    copy.destination[lane] = static_cast<std::uint32_t>(target.address);
    copy.source[lane] = copy.source_written[lane] = nullptr;
    if ((no_source >> lane & 1) == 0 && (sources[lane] & (bytes - 1)) != 0) {
      report(w, op, lane, "misaligned", [&] {
        return fmt::format("copies {} bytes from {:#x}, which is no multiple of {}", bytes,
                           sources[lane], bytes);
      });
      size = 0;
    }
    if (size > 0) {  // nothing is read otherwise, so the address may be anything
      Target source = locate_bytes(w, op, op.imm + 1, lane, sources[lane], size, "reads");
      if (source.space == Space::nowhere) size = 0;
      copy.source[lane] = source.data;
      copy.source_written[lane] = source.written;
      if constexpr (kChecked) w.cta->checker->read(w, op, lane, source, size);
    }
    copy.source_bytes[lane] = static_cast<std::uint8_t>(size);
    if constexpr (kChecked) w.cta->checker->copy_issued(w, op, lane, copy.destination[lane], bytes);
  });
  if (w.cta->request->options.async == AsyncPolicy::eager) land(w, copy, copy.pending);
  land_at_random(w);
}

void commit_group(Warp& w, const Op&, std::uint32_t mask) {
  land_at_random(w);
  for_lanes(mask, [&](int lane) { ++w.open_group[lane]; });
}

// Leaves at most the `imm` newest groups of a thread unfinished.
void wait_group(Warp& w, const Op& op, std::uint32_t mask) {
  wait_for(w, mask, [&](const AsyncCopy& copy, int lane) {
    return std::uint64_t{copy.group[lane]} + op.imm < w.open_group[lane];
  });
}

void wait_all(Warp& w, const Op&, std::uint32_t mask) {
  wait_for(w, mask, [](const AsyncCopy&, int) { return true; });
}

void no_prefetch(Warp&, const Op&, std::uint32_t) {}

}  // namespace

std::vector<Form> async_forms(const ptx::Instruction& instruction) {
  if (instruction.opcode != "cp" || instruction.modifiers.empty() ||
      instruction.modifiers[0] != "async") {
    return {};
  }
  ModifierReader m(instruction);
  m.take("async");
  std::string_view cache = m.take_any({"ca", "cg"});
  if (cache.empty()) m.refuse(".ca or .cg");
  if (m.take_any({"shared", "shared::cta"}).empty()) m.refuse(".shared");
  if (!m.take("global")) m.refuse(".global");
  bool hint = m.take("L2::cache_hint");
  m.take_any({"L2::64B", "L2::128B", "L2::256B"});
  m.finish();

  Form form;
  form.taint = Taint::custom;
  form.access.space = Space::shared;
  form.access.detail = cache == "cg" ? 16 : 4;  // the smallest size
  std::string policy = hint ? "D" : "";
  form.format = "AAI" + policy;
  form.plain = copy_async<false, SourceSize::whole>;
  form.checked = copy_async<true, SourceSize::whole>;
  std::vector<Form> forms = {form};
  form.format = "AAIW" + policy;
  form.plain = copy_async<false, SourceSize::given>;
  form.checked = copy_async<true, SourceSize::given>;
  forms.push_back(form);
  form.format = "AAIP" + policy;
  form.plain = copy_async<false, SourceSize::ignore>;
  form.checked = copy_async<true, SourceSize::ignore>;
  forms.push_back(form);
  return forms;
}

void register_async(FormTable& t) {
  t.add_checked("cp.async.commit_group", "", commit_group, nullptr, Taint::none);
  t.add_checked("cp.async.wait_group", "I", wait_group, nullptr, Taint::none);
  t.add_checked("cp.async.wait_all", "", wait_all, nullptr, Taint::none);
  Form prefetch;
  prefetch.format = "A";
  prefetch.plain = no_prefetch;
  prefetch.taint = Taint::none;
  t.add_form("prefetch{|.global}{.L1|.L2|.L2::evict_last|.L2::evict_normal}", prefetch);
  t.add_form("prefetchu.L1", prefetch);
}

}  // namespace sagegen::emulator
