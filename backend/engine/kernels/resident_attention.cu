// Resident passes, part 3: attention of one new position a row.

// COUNT vectors from a mailbox, LD values of each a lane; every lane of the warp takes part.
constexpr int LD = HEAD_DIM / 8;  // dimensions of a lane: eight lanes hold a head

template <int COUNT>
DEVICE void read_vectors(const u64 *const (&boxes)[COUNT], u32 stamp, float (&out)[COUNT][LD]) {
    u32 tries = 0;
    bool is_late;
    do {  // look at one letter until it is there
        is_late = (u32)(read_letter(boxes[0]) >> 32) != stamp;
        still_waiting(tries);
    } while (COUNT > 1 && __any_sync(FULL, is_late));
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

DEVICE float sum_of_eight(float v) {
    v += __shfl_xor_sync(FULL, v, 1);
    v += __shfl_xor_sync(FULL, v, 2);
    return v + __shfl_xor_sync(FULL, v, 4);
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
DEVICE void turn(float (&v)[LD], const u32 (&norm)[LD / 2], const Angles &angles, float eps) {
    if (HAS_QK_NORM) {
        float squares = 0.f;
#pragma unroll
        for (int i = 0; i < LD; ++i) squares += v[i] * v[i];
        const float root = rsqrtf(sum_of_eight(squares) / HEAD_DIM + eps);
#pragma unroll
        for (int i = 0; i < LD; ++i) {
            const float w = i % 2 ? high_of(norm[i / 2]) : low_of(norm[i / 2]);
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

DEVICE void read_norm(const u16 *norm, int d0, u32 (&out)[LD / 2]) {
#pragma unroll
    for (int i = 0; i < LD / 8; ++i) {
        Words4 four = {};
        if (HAS_QK_NORM) four = ((const Words4 *)(norm + d0))[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) out[4 * i + j] = four.w[j];
    }
}

DEVICE void read_cached(const u16 *from, u32 (&out)[LD / 2], bool is_there) {
#pragma unroll
    for (int i = 0; i < LD / 8; ++i) {
        Words4 four = {};
        if (is_there) four = ((const Words4 *)from)[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) out[4 * i + j] = four.w[j];
    }
}

DEVICE void write_cached(u16 *to, const float (&v)[LD]) {
#pragma unroll
    for (int i = 0; i < LD / 8; ++i) {
        Words4 four;
#pragma unroll
        for (int j = 0; j < 4; ++j) four.w[j] = packed(v[8 * i + 2 * j], v[8 * i + 2 * j + 1]);
        ((Words4 *)to)[i] = four;
    }
}

DEVICE float score(const float (&q)[LD], const u32 (&k)[LD / 2]) {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < LD / 2; ++i) sum += q[2 * i] * low_of(k[i]) + q[2 * i + 1] * high_of(k[i]);
    return sum_of_eight(sum);
}

// Softmax sums so far.
struct Running { float top, weight, sum[LD]; };

DEVICE void join(Running &run, int distance) {
    const float other_top = __shfl_xor_sync(FULL, run.top, distance);
    const float other_weight = __shfl_xor_sync(FULL, run.weight, distance);
    const float top = fmaxf(run.top, other_top);
    const float mine = __expf(run.top - top), theirs = __expf(other_top - top);
    run.top = top;
    run.weight = run.weight * mine + other_weight * theirs;
#pragma unroll
    for (int i = 0; i < LD; ++i)
        run.sum[i] = run.sum[i] * mine + __shfl_xor_sync(FULL, run.sum[i], distance) * theirs;
}

DEVICE void take(Running &run, float s, const u32 (&v)[LD / 2], bool is_there) {
    const float top = is_there ? fmaxf(run.top, s) : run.top;
    const float fade = __expf(run.top - top), p = is_there ? __expf(s - top) : 0.f;
    run.top = top;
    run.weight = run.weight * fade + p;
#pragma unroll
    for (int i = 0; i < LD / 2; ++i) {
        run.sum[2 * i] = run.sum[2 * i] * fade + p * low_of(v[i]);
        run.sum[2 * i + 1] = run.sum[2 * i + 1] * fade + p * high_of(v[i]);
    }
}

#if IS_SLOW
static_assert(SHARE * HEAD_DIM == THREADS, "one thread a value of a head group");

// What a block has of a head group: join the warps, post the result or this block's part of it.
DEVICE void post_mixed(State &st, const Args &a, int unit, u32 part_stamp, u32 mixed_stamp) {
    const int split = unit % a.splits, pair = unit / a.splits;
    const int row = pair / GROUPS, group = pair % GROUPS;
    const int head = st.tid / HEAD_DIM, d = st.tid % HEAD_DIM;
    float top = LOWEST, weight = 0.f, sum = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) top = fmaxf(top, st.sm->mixed[w][head][HEAD_DIM]);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const float share = __expf(st.sm->mixed[w][head][HEAD_DIM] - top);
        weight += st.sm->mixed[w][head][HEAD_DIM + 1] * share;
        sum += st.sm->mixed[w][head][d] * share;
    }
    int out = st.tid;
    float value = sum / weight;
    if (a.splits > 1) {
        // sums [pair, value, split], behind all of them largest scores and weights [pair, head, 2, split]
        u64 *part = a.box_part + (pair * THREADS + st.tid) * a.splits + split;
        u64 *ends = a.box_part + (long long)a.batch * GROUPS * a.splits * THREADS;
        write_letter(part, letter(__float_as_uint(sum), part_stamp));
        if (d == 0) {
            u64 *end = ends + (pair * SHARE + head) * 2 * a.splits + split;
            write_letter(end, letter(__float_as_uint(top), part_stamp));
            write_letter(end + a.splits, letter(__float_as_uint(weight), part_stamp));
        }
        // each block of the group joins its share of the values
        out = split * (THREADS / a.splits) + st.tid / a.splits;
        const u64 *sums = a.box_part + (pair * THREADS + out) * a.splits + st.tid % a.splits;
        const u64 *their_ends = ends + (pair * SHARE + out / HEAD_DIM) * 2 * a.splits + st.tid % a.splits;
        u64 mail[3];
        u32 tries = 0;
        bool is_late;
        do {
            mail[0] = read_letter(sums);
            mail[1] = read_letter(their_ends);
            mail[2] = read_letter(their_ends + a.splits);
            is_late = (u32)(mail[0] >> 32) != part_stamp || (u32)(mail[1] >> 32) != part_stamp ||
                      (u32)(mail[2] >> 32) != part_stamp;
            still_waiting(tries);
        } while (__any_sync(FULL, is_late));
        float best = __uint_as_float((u32)mail[1]);
        for (int distance = 1; distance < a.splits; distance *= 2)
            best = fmaxf(best, __shfl_xor_sync(FULL, best, distance));
        const float share = __expf(__uint_as_float((u32)mail[1]) - best);
        sum = __uint_as_float((u32)mail[0]) * share, weight = __uint_as_float((u32)mail[2]) * share;
        for (int distance = 1; distance < a.splits; distance *= 2) {
            sum += __shfl_xor_sync(FULL, sum, distance);
            weight += __shfl_xor_sync(FULL, weight, distance);
        }
        value = sum / weight;
    }
    const float next = __shfl_down_sync(FULL, value, a.splits);
    if (st.tid % a.splits == 0 && out % 2 == 0)
        write_letter(a.box_mixed + row * (HEADS * HEAD_DIM / 2) +
                         letter_place((group * SHARE * HEAD_DIM + out) / 2, OutShape::LETTERS),
                     letter(packed(value, next), mixed_stamp));
}

// Attention over the cache of each row's slot; the positions of a head group are cut into splits.
DEVICE void attend(State &st, const Args &a, const Layer &layer, u32 stamp, int, bool) {
    const int sub = st.lane / 8, d0 = st.lane % 8 * LD;
    const int units = a.batch * GROUPS * a.splits;
    u32 q_norm[LD / 2], k_norm[LD / 2];
    read_norm(layer.q_norm, d0, q_norm);
    read_norm(layer.k_norm, d0, k_norm);
    for (int unit = st.cta; unit < units; unit += NCTA) {
        const int split = unit % a.splits, row = unit / a.splits / GROUPS;
        const int group = unit / a.splits % GROUPS;
        const long long slot = a.slots[row];
        const int length = (int)a.lengths[slot];
        const int share = length / a.splits + 1;  // splits * share >= length + 1
        const int start = min(split * share, length + 1), stop = min(length + 1, start + share);
        const long long cache = slot * a.slot_stride + group * a.head_stride + d0;
        u32 k[LD / 2], v[LD / 2];
        int t = start + st.warp * 4 + sub;
        read_cached(layer.keys + cache + (long long)t * HEAD_DIM, k, t < stop && t < length);
        read_cached(layer.values + cache + (long long)t * HEAD_DIM, v, t < stop && t < length);
        // one warp a vector: queries, new key, new value
        const Angles angles = read_angles(a, length, d0);
        if (st.warp < SHARE + 2) {
            const int head = st.warp < SHARE ? group * SHARE + st.warp
                                             : HEADS + (st.warp - SHARE) * GROUPS + group;
            const u64 *boxes[1] = {a.box_qkv + row * (QKV / 2) + (head * HEAD_DIM + d0) / 2};
            float mine[1][LD];
            read_vectors<1>(boxes, stamp, mine);
            if (st.warp <= SHARE) turn(mine[0], st.warp < SHARE ? q_norm : k_norm, angles, a.eps);
            if (sub == 0)
#pragma unroll
                for (int i = 0; i < LD; ++i)
                    st.sm->heads[st.warp][d0 + i] = st.warp < SHARE ? mine[0][i] * rsqrtf((float)HEAD_DIM) : mine[0][i];
        }
        __syncthreads();
        float q[SHARE][LD];
        Running run[SHARE];
#pragma unroll
        for (int h = 0; h < SHARE; ++h) {
            run[h].top = LOWEST, run[h].weight = 0.f;
#pragma unroll
            for (int i = 0; i < LD; ++i) q[h][i] = st.sm->heads[h][d0 + i], run[h].sum[i] = 0.f;
        }
        for (int first = start + st.warp * 4; first < stop; first += 4 * WARPS) {
            t = first + sub;
            const int next = t + 4 * WARPS;
            u32 next_k[LD / 2], next_v[LD / 2];
            read_cached(layer.keys + cache + (long long)next * HEAD_DIM, next_k,
                        next < stop && next < length);
            read_cached(layer.values + cache + (long long)next * HEAD_DIM, next_v,
                        next < stop && next < length);
            if (t == length && t < stop) {  // the new position
                float k_new[LD], v_new[LD];
#pragma unroll
                for (int i = 0; i < LD; ++i)
                    k_new[i] = st.sm->heads[SHARE][d0 + i], v_new[i] = st.sm->heads[SHARE + 1][d0 + i];
                write_cached(layer.keys + cache + (long long)t * HEAD_DIM, k_new);
                write_cached(layer.values + cache + (long long)t * HEAD_DIM, v_new);
#pragma unroll
                for (int i = 0; i < LD / 2; ++i) {
                    k[i] = packed(k_new[2 * i], k_new[2 * i + 1]);
                    v[i] = packed(v_new[2 * i], v_new[2 * i + 1]);
                }
            }
#pragma unroll
            for (int h = 0; h < SHARE; ++h) take(run[h], score(q[h], k), v, t < stop);
#pragma unroll
            for (int i = 0; i < LD / 2; ++i) k[i] = next_k[i], v[i] = next_v[i];
        }
#pragma unroll
        for (int h = 0; h < SHARE; ++h) {
            join(run[h], 8);
            join(run[h], 16);
            if (sub == 0) {
#pragma unroll
                for (int i = 0; i < LD; ++i) st.sm->mixed[st.warp][h][d0 + i] = run[h].sum[i];
                if (d0 == 0) {
                    st.sm->mixed[st.warp][h][HEAD_DIM] = run[h].top;
                    st.sm->mixed[st.warp][h][HEAD_DIM + 1] = run[h].weight;
                }
            }
        }
        __syncthreads();
        post_mixed(st, a, unit, stamp + 1, stamp + 2);
        if (unit + NCTA < units) __syncthreads();  // before the next one's sums
    }
}
#else
// Attention over the codebook positions of a frame: a warp a row and head group.
DEVICE void attend(State &st, const Args &a, const Layer &layer, u32 stamp, int position,
                   bool is_pair) {
    const int sub = st.lane / 8, d0 = st.lane % 8 * LD;
    const int new_rows = is_pair ? 2 : 1;
    for (int unit = st.warp * NCTA + st.cta; unit < a.batch * GROUPS; unit += NCTA * WARPS) {
        const int batch_row = unit / GROUPS, group = unit % GROUPS;
        const long long cache = batch_row * a.slot_stride + group * a.head_stride + d0;
        u32 no_norm[LD / 2] = {};
        u32 k_first[LD / 2] = {}, v_first[LD / 2] = {};
        for (int i = 0; i < new_rows; ++i) {
            const int row = batch_row * new_rows + i, at = position + i;
            const Angles angles = read_angles(a, at, d0);
            const u64 *box = a.box_qkv + (long long)row * (QKV / 2) + d0 / 2;
            const u64 *boxes[SHARE + 2];
#pragma unroll
            for (int h = 0; h < SHARE; ++h) boxes[h] = box + (group * SHARE + h) * (HEAD_DIM / 2);
            boxes[SHARE] = box + (HEADS + group) * (HEAD_DIM / 2);
            boxes[SHARE + 1] = box + (HEADS + GROUPS + group) * (HEAD_DIM / 2);
            float q[SHARE + 2][LD];  // the new key and value behind the queries
            read_vectors<SHARE + 2>(boxes, stamp, q);
            auto &k_new = q[SHARE], &v_new = q[SHARE + 1];
            turn(k_new, no_norm, angles, a.eps);
            Running run[SHARE];
#pragma unroll
            for (int h = 0; h < SHARE; ++h) {
                turn(q[h], no_norm, angles, a.eps);
                run[h].top = LOWEST, run[h].weight = 0.f;
#pragma unroll
                for (int j = 0; j < LD; ++j) q[h][j] *= rsqrtf((float)HEAD_DIM), run[h].sum[j] = 0.f;
            }
            for (int first = 0; first <= at; first += 4) {
                const int t = first + sub;
                u32 k[LD / 2], v[LD / 2];
                const bool is_old = t < position;
                read_cached(layer.keys + cache + t * HEAD_DIM, k, is_old);
                read_cached(layer.values + cache + t * HEAD_DIM, v, is_old);
#pragma unroll
                for (int j = 0; j < LD / 2; ++j) {
                    const u32 k_pair = packed(k_new[2 * j], k_new[2 * j + 1]);
                    const u32 v_pair = packed(v_new[2 * j], v_new[2 * j + 1]);
                    if (t == at) k[j] = k_pair, v[j] = v_pair;
                    if (i == 1 && t == at - 1) k[j] = k_first[j], v[j] = v_first[j];
                }
#pragma unroll
                for (int h = 0; h < SHARE; ++h) take(run[h], score(q[h], k), v, t <= at);
            }
#pragma unroll
            for (int j = 0; j < LD / 2; ++j) {
                k_first[j] = packed(k_new[2 * j], k_new[2 * j + 1]);
                v_first[j] = packed(v_new[2 * j], v_new[2 * j + 1]);
            }
            if (sub == 0) {
                write_cached(layer.keys + cache + at * HEAD_DIM, k_new);
                write_cached(layer.values + cache + at * HEAD_DIM, v_new);
            }
            __syncwarp();  // the same warp reads them in the next pass
#pragma unroll
            for (int h = 0; h < SHARE; ++h) {
                join(run[h], 8);
                join(run[h], 16);
                if (sub == h % 4) {
                    u64 *to = a.box_mixed + row * (HEADS * HEAD_DIM / 2);
                    const int first = ((group * SHARE + h) * HEAD_DIM + d0) / 2;
                    const float share = 1.f / run[h].weight;
#pragma unroll
                    for (int j = 0; j < LD / 2; ++j)
                        write_letter(to + letter_place(first + j, OutShape::LETTERS), letter(packed(run[h].sum[2 * j] * share,
                                                           run[h].sum[2 * j + 1] * share), stamp + 2));
                }
            }
        }
    }
}
#endif
