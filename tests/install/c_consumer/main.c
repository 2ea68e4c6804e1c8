/* Uses the installed C API as a C program would: a plan on an emulated device, no GPU needed.
 *   c_consumer attention   makes a plan of the embedded kernels
 *   c_consumer device      only opens a device (a package without embedded PTX) */
#include <sagegen/sagegen.h>
#include <stdio.h>
#include <string.h>

static int failed(const char* call) {
  printf("%s: %s\n", call, sagegen_last_error());
  return 1;
}

int main(int argc, char** argv) {
  sagegen_device* device = NULL;
  sagegen_attention* plan = NULL;
  const sagegen_attention_options options = {.struct_size = sizeof options, .kernel = "head_dim=128 io=bf16"};
  const sagegen_shape shape = {
      .struct_size = sizeof shape, .batch = 1, .q_heads = 8, .kv_heads = 2, .q_len = 512, .kv_len = 512};
  size_t bytes = 0;
  if (sagegen_device_create("emulator:sm_89", &device) != SAGEGEN_OK) return failed("device");
  printf("sagegen %s: %s\n", sagegen_version(), sagegen_device_name(device));
  if (argc == 2 && strcmp(argv[1], "attention") == 0) {
    if (sagegen_attention_create(device, &options, &plan) != SAGEGEN_OK) return failed("plan");
    if (sagegen_attention_workspace_bytes(plan, &shape, &bytes) != SAGEGEN_OK || bytes == 0)
      return failed("workspace");
    printf("%s needs %zu bytes\n", sagegen_attention_kernel(plan), bytes);
  }
  sagegen_attention_destroy(plan);
  sagegen_device_destroy(device);
  return 0;
}
