// What the simulation assumes of a sub-core beyond its rates (gpus.h), in cycles unless it says otherwise. "Chosen"
// values are plausible ones that nobody here has measured, and none was fitted to published speeds. `sagegen-micro`
// measures latencies and rates once there is a GPU (tools/bench/NOTES.md); what it finds belongs here.
#pragma once

namespace sagegen::model {

struct Assumptions {
  // From issue, or from the begin of service behind a queue, to the result. Latencies of FP32, integer and mma
  // instructions are not here: ptxas writes them into stall counts.
  int mufu_latency = 18;         // chosen
  int conversion_latency = 18;   // chosen: the unit of MUFU
  int matrix_load_latency = 30;  // chosen, of ldmatrix
  int shared_latency = 24;       // chosen
  int shuffle_latency = 24;      // chosen: as a load from shared memory
  int global_latency = 300;      // chosen: a load that hits the L2 cache
  int copy_latency = 450;     // chosen: from L2 cache to shared memory, until the group is complete
  int spill_latency = 40;     // chosen: a load that hits the L1 cache
  int constant_latency = 30;  // chosen
  int special_latency = 30;   // chosen: S2R, and what sums over lanes
  int shortest_latency = 4;   // the stall counts that ptxas writes between dependent additions
  double latency_jitter = 0.3;  // chosen: a latency behind the queue is longer by up to this share

  int operand_read = 12;   // chosen: until registers of a queued instruction may be overwritten
  int queue_length = 12;   // chosen: instructions that wait in front of the MIO of a sub-core
  int queue_interval = 2;  // chosen: between two that enter the queue
  int waiting_mma = 1;     // chosen: mma that may wait in front of the tensor core

  int half_warp = 2;         // pipes of 16 lanes: the distance that ptxas keeps
  int mufu_occupancy = 8;    // 4 lanes: CUDA C++ Programming Guide, throughput of instructions
  int global_occupancy = 4;  // chosen: addresses of a load or store

  int barrier_latency = 24;  // chosen: until the last warp's arrival is known
  int barrier_jitter = 60;   // chosen: warps of other sub-cores arrive later by up to this
  int jump = 6;              // chosen: a taken branch, beyond its stall count

  double l2_bytes_per_cycle = 24;  // chosen: from the L2 cache to an SM while all SMs copy
  int copy_lead = 20;              // chosen: how much of its latency a waiting copy hides

  // The figure is the mean over runs that differ in the jitter and in when the warps start: two warps can lock in
  // phase, which moves a single run by up to 10 %.
  int seeds = 4;
  int iterations = 26;  // of a run, of which the first 9 are left out
};

}  // namespace sagegen::model
