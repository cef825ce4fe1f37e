// Resident passes, part 6: attention over time, keys and values in the slots.

#if IS_SLOW
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

// COUNT positions more; the score of one that is not there is LOWEST.
template <int COUNT>
DEVICE void take(Running &run, const float (&scores)[COUNT], const Words4 (&v)[COUNT]) {
    float top = run.top, p[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) top = fmaxf(top, scores[i]);
    const float fade = __expf(run.top - top);
    run.top = top;
    run.weight *= fade;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        p[i] = scores[i] > LOWEST ? __expf(scores[i] - top) : 0.f;
        run.weight += p[i];
    }
#pragma unroll
    for (int j = 0; j < LD; ++j) run.sum[j] *= fade;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
#pragma unroll
        for (int j = 0; j < LD / 2; ++j) {
            run.sum[2 * j] += p[i] * low_of(v[i].w[j]);
            run.sum[2 * j + 1] += p[i] * high_of(v[i].w[j]);
        }
}

static_assert(SHARE * HEAD_DIM == THREADS, "one thread a value of a head group");
constexpr int PART = THREADS + 2 * SHARE;  // letters: sums; largest score and weight of each head
constexpr int STRIDE = WARPS * AT_A_TIME, READ_AHEAD = 2;  // positions of all warps; rounds of them

// What is a block's to do in each layer: some positions of a row's head group.
struct Place {
    int row, group, split, split_bits, start, stop, length;
    long long cache;  // where the lane's dimensions of the first position lie
};

// What attention reads beside the mail, asked for a linear layer ahead: memory that is busy with
// weights answers late.
struct Ahead { Words4 k[READ_AHEAD], v[READ_AHEAD], norm; Angles angles; };

DEVICE Ahead read_ahead(const State &st, const Args &a, const Layer &layer, const Place &at) {
    Ahead r;
    const int d0 = st.lane % VECTOR * LD, t = at.start + st.warp * AT_A_TIME + st.lane / VECTOR;
    const int old = min(at.stop, at.length);  // behind the last position that is in the cache
#pragma unroll
    for (int i = 0; i < READ_AHEAD; ++i) {
        const long long from = at.cache + (long long)(t + i * STRIDE) * HEAD_DIM;
        r.k[i] = read_cached(layer.keys + from, t + i * STRIDE < old);
        r.v[i] = read_cached(layer.values + from, t + i * STRIDE < old);
    }
    r.norm = read_cached((st.warp < SHARE ? layer.q_norm : layer.k_norm) + d0, HAS_QK_NORM && st.warp <= SHARE);
    r.angles = read_angles(a, at.length, d0);
    return r;
}

DEVICE Place place_of(const State &st, const Args &a, int unit) {
    Place r = {};
    const int d0 = st.lane % VECTOR * LD, pair = unit / a.splits;
    if (pair >= a.batch * GROUPS) return r;
    r.row = pair / GROUPS, r.group = pair % GROUPS, r.split = unit % a.splits;
    while (1 << r.split_bits < a.splits) ++r.split_bits;
    const long long slot = a.slots[r.row];
    r.length = (int)a.lengths[slot];
    const int share = r.length / a.splits + 1;  // splits * share >= length + 1
    r.start = min(r.split * share, r.length + 1), r.stop = min(r.length + 1, r.start + share);
    r.cache = slot * a.slot_stride + r.group * a.head_stride + d0;
    return r;
}

// Sums of all splits: each block of the group joins its share of the values.
DEVICE float joined(const State &st, const Args &a, const Place &at, int out, u32 stamp) {
    const u64 *part = a.box_part +
        (long long)(((at.row * GROUPS + at.group) << at.split_bits) + (st.tid & (a.splits - 1))) * PART;
    u64 mail;
    Pair64 ends;
    u32 tries = 0;
    bool is_late;
    do {
        mail = read_letter(part + out), ends = read_mail(part + THREADS + out / HEAD_DIM * 2);
        is_late = (u32)(mail >> 32) != stamp || (u32)(ends.a >> 32) != stamp ||
                  (u32)(ends.b >> 32) != stamp;
        still_waiting(tries);
    } while (__any_sync(FULL, is_late));
    const float top = __uint_as_float((u32)ends.a);
    float best = top;
#pragma unroll
    for (int distance = 1; distance < 16; distance *= 2)
        if (distance < a.splits) best = fmaxf(best, __shfl_xor_sync(FULL, best, distance));
    const float share = __expf(top - best);
    float sum = __uint_as_float((u32)mail) * share, weight = __uint_as_float((u32)ends.b) * share;
#pragma unroll
    for (int distance = 1; distance < 16; distance *= 2)
        if (distance < a.splits) {
            sum += __shfl_xor_sync(FULL, sum, distance);
            weight += __shfl_xor_sync(FULL, weight, distance);
        }
    return quotient(sum, weight);
}

// What a block has of a head group: join the warps, post the result or this block's part of it.
DEVICE void post_mixed(const State &st, const Args &a, const Place &at, u32 part_stamp, u32 mixed_stamp) {
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
    float value;
    if (a.splits > 1) {
        u64 *part = a.box_part +
            (long long)(((at.row * GROUPS + at.group) << at.split_bits) + at.split) * PART;
        write_letter(part + st.tid, letter(__float_as_uint(sum), part_stamp));
        if (d == 0) {
            write_letter(part + THREADS + 2 * head, letter(__float_as_uint(top), part_stamp));
            write_letter(part + THREADS + 2 * head + 1, letter(__float_as_uint(weight), part_stamp));
        }
        out = (at.split * THREADS + st.tid) >> at.split_bits;
        value = joined(st, a, at, out, part_stamp);
    } else {
        value = quotient(sum, weight);
    }
    const float next = __shfl_down_sync(FULL, value, a.splits);
    if ((st.tid & (a.splits - 1)) == 0 && out % 2 == 0)
        post(a.box_mixed, MIXED,
             at.row * (HEADS * HEAD_DIM / 2) +
                 letter_place((at.group * SHARE * HEAD_DIM + out) / 2, OutShape::LETTERS),
             letter(packed(value, next), mixed_stamp));
}

// Queries, new key and new value of a head group: one warp a vector, left for all warps.
DEVICE void share_vectors(const State &st, const Args &a, const Place &at, const Ahead &ahead, u32 stamp) {
    const int d0 = st.lane % VECTOR * LD;
    const bool is_query = st.warp < SHARE;
    const int head = is_query ? at.group * SHARE + st.warp : HEADS + (st.warp - SHARE) * GROUPS + at.group;
    const u64 *boxes[1] = {qkv_of(st, a, at.row) + (head * HEAD_DIM + d0) / 2};
    float mine[1][LD];
    read_vectors<1>(boxes, stamp, mine);
    if (st.warp <= SHARE) turn(mine[0], ahead.norm, ahead.angles, a.eps);
    if (st.lane >= VECTOR) return;
#pragma unroll
    for (int i = 0; i < LD; ++i)
        st.sm->heads[st.warp][d0 + i] = is_query ? mine[0][i] * rsqrtf((float)HEAD_DIM) : mine[0][i];
}

// Attention over the positions of a place in the cache.
DEVICE void attend_at(State &st, const Args &a, const Layer &layer, const Place &at, Ahead &ahead, u32 stamp) {
    const int sub = st.lane / VECTOR, d0 = st.lane % VECTOR * LD;
    u16 *keys = layer.keys + at.cache, *values = layer.values + at.cache;
    const int old = min(at.stop, at.length);
    Words4 (&k)[READ_AHEAD] = ahead.k, (&v)[READ_AHEAD] = ahead.v;
    int t = at.start + st.warp * AT_A_TIME + sub;
    if (st.warp < SHARE + 2) share_vectors(st, a, at, ahead, stamp);
    __syncthreads();
    float q[SHARE][LD];
    Running run[SHARE];
#pragma unroll
    for (int h = 0; h < SHARE; ++h) {
        run[h].top = LOWEST, run[h].weight = 0.f;
#pragma unroll
        for (int i = 0; i < LD; ++i) q[h][i] = st.sm->heads[h][d0 + i], run[h].sum[i] = 0.f;
    }
    for (; t - sub < at.stop; t += READ_AHEAD * STRIDE) {
        Words4 next_k[READ_AHEAD], next_v[READ_AHEAD];
#pragma unroll
        for (int i = 0; i < READ_AHEAD; ++i) {
            const int next = t + (READ_AHEAD + i) * STRIDE;
            next_k[i] = read_cached(keys + (long long)next * HEAD_DIM, next < old);
            next_v[i] = read_cached(values + (long long)next * HEAD_DIM, next < old);
            if (t + i * STRIDE == at.length && at.length < at.stop) {  // the new position
                float k_new[LD], v_new[LD];
#pragma unroll
                for (int j = 0; j < LD; ++j)
                    k_new[j] = st.sm->heads[SHARE][d0 + j], v_new[j] = st.sm->heads[SHARE + 1][d0 + j];
                k[i] = packed_vector(k_new), v[i] = packed_vector(v_new);
                *(Words4 *)(keys + (long long)at.length * HEAD_DIM) = k[i];
                *(Words4 *)(values + (long long)at.length * HEAD_DIM) = v[i];
            }
        }
#pragma unroll
        for (int h = 0; h < SHARE; ++h) {
            float scores[READ_AHEAD];
#pragma unroll
            for (int i = 0; i < READ_AHEAD; ++i) {
                const float s = score(q[h], k[i]);
                scores[i] = t + i * STRIDE < at.stop ? s : LOWEST;
            }
            take(run[h], scores, v);
        }
#pragma unroll
        for (int i = 0; i < READ_AHEAD; ++i) k[i] = next_k[i], v[i] = next_v[i];
    }
#pragma unroll
    for (int h = 0; h < SHARE; ++h) {
#pragma unroll
        for (int distance = VECTOR; distance < 32; distance *= 2) join(run[h], distance);
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
    post_mixed(st, a, at, stamp + 1, stamp + 2);
}

// The positions of a head group are cut into splits; ``first`` is what the block begins with.
DEVICE void attend(State &st, const Args &a, const Layer &layer, u32 stamp, const Place &first, Ahead &ahead) {
    const int units = a.batch * GROUPS * a.splits;
    if (st.cta < units) attend_at(st, a, layer, first, ahead, stamp);
    for (int unit = st.cta + NCTA; !IS_FEW && unit < units; unit += NCTA) {
        __syncthreads();  // before the next one's sums
        const Place next = place_of(st, a, unit);
        Ahead more = read_ahead(st, a, layer, next);
        attend_at(st, a, layer, next, more, stamp);
    }
}

// What the output layer reads.
DEVICE Mail<OutShape, false> mixed_of(const Args &a, const Place &, int, u32 stamp) {
    return {a.box_mixed, nullptr, stamp + 2};
}
#endif

