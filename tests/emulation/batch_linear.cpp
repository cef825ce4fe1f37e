// A linear layer of a batch as a function for a CPU.
#include "warps.h"
namespace kernel {
#include BATCH_LINEAR
}
extern "C" int shared_bytes() { return kernel::SHARED_BYTES; }
extern "C" void run_batch_linear(const kernel::Args *args, int num_blocks) {
    emulation::run(num_blocks, kernel::THREADS, kernel::SHARED_BYTES, [=] { kernel::run(*args); });
}
