// What the kernel does in PTX, for one emulated thread.
DEVICE Words4 read_shared(u32 from) {
    Words4 r;
    std::memcpy(&r, shared_base() + from, 16);
    return r;
}
DEVICE Pair64 read_mail(const u64 *from) { return {from[0], from[1]}; }
DEVICE u64 read_letter(const u64 *from) { return *from; }
DEVICE void write_letter(u64 *to, u64 value) { *to = value; }
DEVICE u32 packed(float low, float high) {
    return emulation::bfloat(low) | emulation::bfloat(high) << 16;
}
DEVICE void widened(u32 word, u32 &low, u32 &high) {
    float v[4];
    for (int i = 0; i < 4; ++i) v[i] = (float)(signed char)(word >> (8 * i));
    low = packed(v[0], v[1]), high = packed(v[2], v[3]);
}
// m16n8k16: lane (r, c) gives rows r, r + 8 of A and column r of B, at k = 2 c, 2 c + 1 and 8 later.
DEVICE void multiply_add(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    const u32 mine[6] = {a0, a1, a2, a3, b0, b1};
    auto all = emulation::exchange(mine);
    const int lane = threadIdx.x % 32, r = lane / 4, c = lane % 4;
    for (int i = 0; i < 4; ++i) {
        const int column = 2 * c + i % 2;
        for (int quad = 0; quad < 4; ++quad)
            for (int half = 0; half < 2; ++half) {
                const u32 a = all[r * 4 + quad][2 * half + i / 2], b = all[column * 4 + quad][4 + half];
                sum[i] += __uint_as_float(a << 16) * __uint_as_float(b << 16);
                sum[i] += __uint_as_float(a & 0xFFFF0000u) * __uint_as_float(b & 0xFFFF0000u);
            }
    }
}
DEVICE float quotient(float x, float y) { return x / y; }
DEVICE u32 multiplied(u32 left, u32 right) {
    const u32 mask = 0xFFFF0000u;
    return packed(__uint_as_float(left << 16) * __uint_as_float(right << 16),
                  __uint_as_float(left & mask) * __uint_as_float(right & mask));
}
#ifdef CK
// Blocks of a cluster lie behind each other in the grid.
DEVICE u32 rank_in_cluster() { return blockIdx.x % CK; }
DEVICE void arrive_in_cluster() { emulation::arrive_in_cluster(CK); }
DEVICE void wait_for_cluster() { emulation::wait_for_cluster(CK); }
template <class T> void write_to_block(u32 at, u32 rank, const T &value) {
    std::memcpy(emulation::shared_of(blockIdx.x / CK * CK + rank) + at, &value, sizeof(T));
}
#endif
