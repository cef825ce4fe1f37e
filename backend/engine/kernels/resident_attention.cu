// Resident passes, part 5: attention of one new position a row, what both kinds share.

constexpr int LD = 8, VECTOR = HEAD_DIM / LD, AT_A_TIME = 32 / VECTOR;  // dimensions of a lane, lanes of
                                                                      // a vector, vectors of a warp

constexpr int MIXED = NT * 8 * (HEADS * HEAD_DIM / 2);  // letters of what attention posts

// Where a row's queries, keys and values come in.
DEVICE const u64 *qkv_of(const State &st, const Args &a, int row) {
    return a.box_qkv + (st.cta % COPIES * NT * 8 + row) * (QKV / 2);
}

// COUNT vectors from a mailbox, LD values of each a lane; every lane of the warp takes part.
template <int COUNT>
DEVICE void read_vectors(const u64 *const (&boxes)[COUNT], u32 stamp, float (&out)[COUNT][LD]) {
    u32 tries = 0;
    bool is_late;
    do {
        Pair64 mail[COUNT][LD / 4];
        is_late = false;
#pragma unroll
        for (int v = 0; v < COUNT; ++v)
#pragma unroll
            for (int i = 0; i < LD / 4; ++i) mail[v][i] = read_mail(boxes[v] + 2 * i);
#pragma unroll
        for (int v = 0; v < COUNT; ++v)
#pragma unroll
            for (int i = 0; i < LD / 4; ++i) {
                const Pair64 m = mail[v][i];
                out[v][4 * i] = low_of((u32)m.a), out[v][4 * i + 1] = high_of((u32)m.a);
                out[v][4 * i + 2] = low_of((u32)m.b), out[v][4 * i + 3] = high_of((u32)m.b);
                is_late |= (u32)(m.a >> 32) != stamp || (u32)(m.b >> 32) != stamp;
            }
        still_waiting(tries);
    } while (__any_sync(FULL, is_late));
}

DEVICE float sum_of_vector(float v) {
#pragma unroll
    for (int distance = 1; distance < VECTOR; distance *= 2) v += __shfl_xor_sync(FULL, v, distance);
    return v;
}

struct Angles { float cs[LD]; };  // cosine and sine of LD / 2 pairs

DEVICE Angles read_angles(const Args &a, long long position, int d0) {
    Angles r;
#pragma unroll
    for (int i = 0; i < LD / 4; ++i) {
        const Float4 four = ((const Float4 *)(a.rope + position * HEAD_DIM + d0))[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) r.cs[4 * i + j] = four.v[j];
    }
    return r;
}

// Norm of a head, then rotation; rounded as the plain step rounds.
DEVICE void turn(float (&v)[LD], const Words4 &norm, const Angles &angles, float eps) {
    if (HAS_QK_NORM) {
        float squares = 0.f;
#pragma unroll
        for (int i = 0; i < LD; ++i) squares += v[i] * v[i];
        const float root = rsqrtf(sum_of_vector(squares) * (1.f / HEAD_DIM) + eps);
#pragma unroll
        for (int i = 0; i < LD; ++i) {
            const float w = i % 2 ? high_of(norm.w[i / 2]) : low_of(norm.w[i / 2]);
            v[i] = rounded(v[i] * root * w);
        }
    }
#pragma unroll
    for (int i = 0; i < LD; i += 2) {
        const float even = v[i], odd = v[i + 1], cosine = angles.cs[i], sine = angles.cs[i + 1];
        v[i] = rounded(even * cosine - odd * sine);
        v[i + 1] = rounded(odd * cosine + even * sine);
    }
}

DEVICE Words4 read_cached(const u16 *from, bool is_there) {
    Words4 four = {};
    if (is_there) four = *(const Words4 *)from;
    return four;
}

DEVICE Words4 packed_vector(const float (&v)[LD]) {
    Words4 four;
#pragma unroll
    for (int j = 0; j < 4; ++j) four.w[j] = packed(v[2 * j], v[2 * j + 1]);
    return four;
}

DEVICE float score(const float (&q)[LD], const Words4 &k) {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < LD / 2; ++i) sum += q[2 * i] * low_of(k.w[i]) + q[2 * i + 1] * high_of(k.w[i]);
    return sum_of_vector(sum);
}

