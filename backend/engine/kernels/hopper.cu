// What is written in PTX: bulk copies, mailboxes, matrix units, clusters; compute capability 9.0.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

constexpr u32 FULL = 0xFFFFFFFFu;

struct alignas(16) Words4 { u32 w[4]; };
struct alignas(16) Pair64 { u64 a, b; };
struct alignas(16) Float4 { float v[4]; };
struct alignas(8) Two { u32 w[2]; };
struct alignas(8) Float2 { float v[2]; };

#ifndef EMULATED
#define DEVICE_FUNCTION __device__
#define DEVICE __device__ __forceinline__
extern __shared__ __align__(128) char shared_memory[];
DEVICE char *shared_base() { return shared_memory; }
DEVICE u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }
// A barrier in shared memory that counts the bytes of bulk copies.
DEVICE void make_barrier(u32 at) { asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at) : "memory"); }
DEVICE void show_barriers_to_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void expect_bytes(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void copy_bulk(u32 to, const void *from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
DEVICE bool is_complete(u32 barrier, u32 parity) {
    u32 r;
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}" : "=r"(r) : "r"(barrier), "r"(parity) : "memory");
    return r;
}
DEVICE Words4 read_shared(u32 from) {
    Words4 r;
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3]) : "r"(from) : "memory");
    return r;
}
DEVICE Pair64 read_mail(const u64 *from) {
    Pair64 r;
    asm volatile("ld.relaxed.gpu.global.v2.b64 {%0,%1}, [%2];"
                 : "=l"(r.a), "=l"(r.b) : "l"(from) : "memory");
    return r;
}
DEVICE u64 read_letter(const u64 *from) {
    u64 r;
    asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(r) : "l"(from) : "memory");
    return r;
}
DEVICE void write_letter(u64 *to, u64 value) {
    asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}
DEVICE void multiply_add(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
DEVICE u32 packed(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
// Four int8 as two pairs of bfloat16, exactly: 128 + the lower seven bits, less 128 or 256.
DEVICE void widened(u32 word, u32 &low, u32 &high) {
    const u32 p = __byte_perm(word, 0x43434343u, 0x4140), q = __byte_perm(word, 0x43434343u, 0x4342);
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(low)
        : "r"(p & 0xFF7FFF7Fu), "r"(0x3F803F80u), "r"((p & 0xFF80FF80u) ^ 0x80008000u));
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(high)
        : "r"(q & 0xFF7FFF7Fu), "r"(0x3F803F80u), "r"((q & 0xFF80FF80u) ^ 0x80008000u));
}
// A quotient of numbers of ordinary size, rounded like a division but for rare last bits.
DEVICE float quotient(float x, float y) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(y));
    const float first = x * inverse;
    return fmaf(fmaf(-first, y, x), inverse, first);
}
DEVICE void wait_for_kernel_before() {
#ifdef HAS_PDL
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
DEVICE void let_next_kernel_start() {
#ifdef HAS_PDL
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// What is computed from a value behind this is computed anew: else addresses of all linear layers are
// kept in registers through all of them.
DEVICE void hide(int &value) { asm volatile("" : "+r"(value)); }
DEVICE void still_waiting(u32 &tries) {
    if (++tries > (1u << 24)) asm volatile("trap;");
}
// Blocks of a cluster: their number in it, a barrier of all their threads, and writing to each other.
DEVICE u32 rank_in_cluster() {
    u32 r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
DEVICE void arrive_in_cluster() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void wait_for_cluster() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE u32 address_in_block(u32 at, u32 rank) {
    u32 r;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(at), "r"(rank));
    return r;
}
DEVICE void write_to_block(u32 at, u32 rank, const Float4 &value) {
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1,%2,%3,%4};"
                 ::"r"(address_in_block(at, rank)), "f"(value.v[0]), "f"(value.v[1]), "f"(value.v[2]),
                 "f"(value.v[3]) : "memory");
}
DEVICE void write_to_block(u32 at, u32 rank, float value) {
    asm volatile("st.shared::cluster.f32 [%0], %1;"
                 ::"r"(address_in_block(at, rank)), "f"(value) : "memory");
}
// Product of two pairs of bfloat16, rounded.
DEVICE u32 multiplied(u32 left, u32 right) {
    u32 r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(left), "r"(right), "r"(0x80008000u));
    return r;
}
#else
#include "primitives.h"
#endif

DEVICE u32 handed(u32 word, int lane) {
    return __float_as_uint(__shfl_sync(FULL, __uint_as_float(word), lane));
}
DEVICE float low_of(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_of(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }
DEVICE float rounded(float value) { return low_of(packed(value, 0.f)); }
DEVICE float wide(u16 value) { return __uint_as_float((u32)value << 16); }
DEVICE u64 letter(u32 data, u32 stamp) { return (u64)data | ((u64)stamp << 32); }
