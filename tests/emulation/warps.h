// Runs the blocks of a kernel on a CPU, every thread a fiber: slow, for small sizes, in any order.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#define EMULATED 1
#define DEVICE static inline
#define DEVICE_FUNCTION
struct Dim { int x; };
static Dim threadIdx, blockIdx;

namespace emulation {
typedef unsigned int u32;
struct Copy { char *to; const char *from; unsigned bytes; };
struct Waiting { unsigned phase = 0, expected = 0, seen = 0; std::vector<Copy> copies; };
struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    int thread, block;
    bool is_done = false;
};
struct Barrier { int arrived = 0; long generation = 0; };
struct Warp { Barrier barrier; u32 words[2][32][6]; int turn[32] = {}; };
struct Block {
    Barrier barrier;
    std::vector<Warp> warps;
    std::vector<char> shared;
    std::map<unsigned, Waiting> waiting;
    int in_cluster = 0;         // threads that have arrived, in the first block of a cluster
    long cluster_turn = 0;      // times that all had
    std::map<int, long> turn_of;  // by thread: the turn it arrived in
};

static ucontext_t scheduler;
static Fiber *current;
static std::vector<Block> blocks;
static int num_threads;

static void yield() {
    Fiber *me = current;
    swapcontext(&me->context, &scheduler);
    threadIdx.x = me->thread, blockIdx.x = me->block;
}
static void arrive(Barrier &barrier, int count) {
    const long generation = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0, ++barrier.generation;
        return;
    }
    while (barrier.generation == generation) yield();
}
static char *shared_of(int block) {
    char *base = blocks[block].shared.data();
    return base + (128 - (size_t)base % 128) % 128;
}
static void arrive_in_cluster(int size) {
    Block &first = blocks[blockIdx.x / size * size];
    blocks[blockIdx.x].turn_of[threadIdx.x] = first.cluster_turn;
    if (++first.in_cluster == size * num_threads) first.in_cluster = 0, ++first.cluster_turn;
}
static void wait_for_cluster(int size) {
    Block &first = blocks[blockIdx.x / size * size];
    while (first.cluster_turn == blocks[blockIdx.x].turn_of[threadIdx.x]) yield();
}
static Warp &warp() { return blocks[blockIdx.x].warps[threadIdx.x / 32]; }
// Every lane leaves words, then sees those of all.
template <int N> u32 (*exchange(const u32 (&mine)[N]))[6] {
    Warp &w = warp();
    const int lane = threadIdx.x % 32, turn = w.turn[lane]++ & 1;
    for (int i = 0; i < N; ++i) w.words[turn][lane][i] = mine[i];
    arrive(w.barrier, 32);
    return w.words[turn];
}
static std::function<void()> body;
static void enter() {
    threadIdx.x = current->thread, blockIdx.x = current->block;
    body();
    current->is_done = true;
    swapcontext(&current->context, &scheduler);
}
static void run(int num_blocks, int threads, size_t shared_bytes, std::function<void()> what) {
    num_threads = threads, body = what;
    blocks.assign(num_blocks, Block());
    std::vector<std::unique_ptr<Fiber>> fibers;
    for (int b = 0; b < num_blocks; ++b) {
        blocks[b].warps.resize(threads / 32);
        blocks[b].shared.assign(shared_bytes + 128, (char)0xFF);  // NaN
        for (int t = 0; t < threads; ++t) {
            auto f = std::make_unique<Fiber>();
            f->thread = t, f->block = b;
            f->stack.resize(96 << 10);
            getcontext(&f->context);
            f->context.uc_stack.ss_sp = f->stack.data();
            f->context.uc_stack.ss_size = f->stack.size();
            f->context.uc_link = nullptr;
            makecontext(&f->context, enter, 0);
            fibers.push_back(std::move(f));
        }
    }
    std::mt19937 order(1);
    size_t left = fibers.size();
    while (left) {
        left = 0;
        // blocks in a changing order, and sometimes one stays behind
        const size_t start = order() % fibers.size();
        const int lazy = (int)(order() % (2 * num_blocks));
        for (size_t i = 0; i < fibers.size(); ++i) {
            Fiber *f = fibers[(start + i) % fibers.size()].get();
            if (f->is_done) continue;
            ++left;
            if (f->block == lazy) continue;
            current = f;
            swapcontext(&scheduler, &f->context);
        }
    }
}
static float as_float(u32 bits) { float r; std::memcpy(&r, &bits, 4); return r; }
static u32 as_bits(float v) { u32 r; std::memcpy(&r, &v, 4); return r; }
static u32 bfloat(float v) {
    const u32 bits = as_bits(v);
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}
}  // namespace emulation

static void __syncthreads() {
    emulation::arrive(emulation::blocks[blockIdx.x].barrier, emulation::num_threads);
}
static float shuffled(float v, int lane) {
    const emulation::u32 mine[1] = {emulation::as_bits(v)};
    return emulation::as_float(emulation::exchange(mine)[lane][0]);
}
static float __shfl_xor_sync(int, float v, int mask) { return shuffled(v, (threadIdx.x % 32) ^ mask); }
static float __shfl_down_sync(int, float v, int delta) {
    const int lane = threadIdx.x % 32;
    return shuffled(v, lane + delta < 32 ? lane + delta : lane);
}
static float __shfl_sync(int, float v, int lane) { return shuffled(v, lane); }
static void __syncwarp() { emulation::arrive(emulation::warp().barrier, 32); }
static bool __any_sync(int, bool v) {
    const emulation::u32 mine[1] = {v};
    auto all = emulation::exchange(mine);
    bool any = false;
    for (int i = 0; i < 32; ++i) any |= all[i][0] != 0;
    return any;
}
static float __uint_as_float(unsigned v) { return emulation::as_float(v); }
static unsigned __float_as_uint(float v) { return emulation::as_bits(v); }
#define __expf std::exp
static float __fdividef(float x, float y) { return x / y; }
static float rsqrtf(float v) { return 1.f / std::sqrt(v); }
using std::fmax;
static int min(int a, int b) { return a < b ? a : b; }

static char *shared_base() { return emulation::shared_of(blockIdx.x); }
static unsigned shared_address(const void *p) { return (unsigned)((const char *)p - shared_base()); }
// Bulk copies happen as late as they may: when somebody waits for them.
static emulation::Waiting &waiting(unsigned barrier) {
    return emulation::blocks[blockIdx.x].waiting[barrier];
}
static void make_barrier(unsigned at) { waiting(at) = {}; }
static void show_barriers_to_copies() {}
static void expect_bytes(unsigned barrier, unsigned bytes) {
    if (waiting(barrier).expected) std::fprintf(stderr, "expected twice\n"), std::abort();
    waiting(barrier).expected = bytes;
}
static void copy_bulk(unsigned to, const void *from, unsigned bytes, unsigned barrier) {
    if (to % 16 || (size_t)from % 16 || bytes % 16) std::fprintf(stderr, "crooked copy\n"), std::abort();
    waiting(barrier).copies.push_back({shared_base() + to, (const char *)from, bytes});
    waiting(barrier).seen += bytes;
}
static bool is_complete(unsigned barrier, unsigned parity) {
    auto &w = waiting(barrier);
    if ((w.phase & 1u) == parity && w.expected && w.seen == w.expected) {
        for (auto &copy : w.copies) std::memcpy(copy.to, copy.from, copy.bytes);
        w.copies.clear(), w.expected = w.seen = 0, ++w.phase;
    }
    return (w.phase & 1u) != parity;
}
static void hide(int &) {}
static void wait_for_kernel_before() {}
static void let_next_kernel_start() {}
static void still_waiting(unsigned &tries) {
    if (++tries > 5000) std::fprintf(stderr, "stuck\n"), std::abort();
    emulation::yield();
}
