// Resident passes, part 8: drawing a residual code; a block a row. Rules of kernels/sampling.py.

#if !IS_SLOW
constexpr int PAIRS = (NUM_LOGITS / 2 + THREADS - 1) / THREADS, VALUES = 2 * PAIRS;
constexpr u64 GOLDEN = 0x9E3779B97F4A7C15ull, MIX_1 = 0xBF58476D1CE4E5B9ull,
              MIX_2 = 0x94D049BB133111EBull;

DEVICE u64 mixed_bits(u64 word) {
    word = (word ^ (word >> 30)) * MIX_1;
    word = (word ^ (word >> 27)) * MIX_2;
    return word ^ (word >> 31);
}

// Logarithm of the noise of backend.engine.noise, draws counted from 0.
DEVICE float log_of_noise(u64 start, u64 draw) {
    const u64 word = mixed_bits(start + (draw + 1) * GOLDEN);
    const float uniform = ((float)(int)(word >> 41) + 0.5f) * (1.f / 8388608.f);
    const float w = 1.f - uniform;
    const float series = w * (1.f + w * (0.5f + w * (1.f / 3.f + w * (0.25f + w * 0.2f))));
    return logf(w < 0.03125f ? series : -logf(uniform));
}

// The largest score, the first of equals, and its probability.
struct Best { float score, p; int code; };

DEVICE Best better(const Best &x, const Best &y) {
    return y.score > x.score || (y.score == x.score && y.code < x.code) ? y : x;
}

DEVICE Best of_lane(const Best &best, int distance) {
    return {__shfl_xor_sync(FULL, best.score, distance), __shfl_xor_sync(FULL, best.p, distance),
            (int)__float_as_uint(__shfl_xor_sync(FULL, __uint_as_float(best.code), distance))};
}

struct Reducer { u32 *scratch; int turn, warp, lane; };

DEVICE Best best_of_block(Reducer &r, Best best) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) best = better(best, of_lane(best, distance));
    u32 *mine = r.scratch + r.turn * WARPS * 6;
    r.turn ^= 1;
    if (r.lane == 0) {
        mine[r.warp * 3] = __float_as_uint(best.score);
        mine[r.warp * 3 + 1] = __float_as_uint(best.p), mine[r.warp * 3 + 2] = best.code;
    }
    __syncthreads();
    for (int w = 0; w < WARPS; ++w)
        best = better(best, {__uint_as_float(mine[w * 3]), __uint_as_float(mine[w * 3 + 1]),
                             (int)mine[w * 3 + 2]});
    return best;
}

DEVICE Float2 sums_of_block(Reducer &r, float left, float right) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        left += __shfl_xor_sync(FULL, left, distance);
        right += __shfl_xor_sync(FULL, right, distance);
    }
    u32 *mine = r.scratch + r.turn * WARPS * 6;
    r.turn ^= 1;
    if (r.lane == 0)
        mine[r.warp * 3] = __float_as_uint(left), mine[r.warp * 3 + 1] = __float_as_uint(right);
    __syncthreads();
    Float2 sum = {};
    for (int w = 0; w < WARPS; ++w) {
        sum.v[0] += __uint_as_float(mine[w * 3]);
        sum.v[1] += __uint_as_float(mine[w * 3 + 1]);
    }
    return sum;
}

DEVICE int likeliest(const float (&values)[VALUES], const float (&p)[VALUES], int tid, Reducer &r,
                     Best &best) {
    best = {__uint_as_float(0xFF800000u), 0.f, NUM_LOGITS - 1};
#pragma unroll
    for (int i = 0; i < VALUES; ++i) {
        const int code = (i / 2 * THREADS + tid) * 2 + i % 2;
        if (code < NUM_LOGITS) best = better(best, {values[i], p[i], code});
    }
    best = best_of_block(r, best);
    return best.code;
}

// The largest logit, and the sum of exp(logit - top).
struct Sums { float top, total; };

// Both, and the code with the largest score (its logit in place of its probability), with one barrier:
// each warp sums against its own largest logit first.
DEVICE Sums sums_and_winner(const float (&z)[VALUES], const float (&scores)[VALUES], int tid, Reducer &r,
                            Best &best) {
    Sums own = {LOWEST, 0.f};
    best = {__uint_as_float(0xFF800000u), 0.f, NUM_LOGITS - 1};
#pragma unroll
    for (int i = 0; i < VALUES; ++i) {
        own.top = fmaxf(own.top, z[i]);
        best = better(best, {scores[i], z[i], (i / 2 * THREADS + tid) * 2 + i % 2});
    }
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2)
        own.top = fmaxf(own.top, __shfl_xor_sync(FULL, own.top, distance));
#pragma unroll
    for (int i = 0; i < VALUES; ++i) own.total += __expf(z[i] - own.top);
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        own.total += __shfl_xor_sync(FULL, own.total, distance);
        best = better(best, of_lane(best, distance));
    }
    u32 *mine = r.scratch + r.turn * WARPS * 6;
    r.turn ^= 1;
    if (r.lane == 0) {
        u32 *to = mine + r.warp * 6;
        to[0] = __float_as_uint(best.score), to[1] = __float_as_uint(best.p), to[2] = best.code;
        to[3] = __float_as_uint(own.top), to[4] = __float_as_uint(own.total);
    }
    __syncthreads();
    Sums all = {LOWEST, 0.f};
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const u32 *from = mine + w * 6;
        best = better(best, {__uint_as_float(from[0]), __uint_as_float(from[1]), (int)from[2]});
        all.top = fmaxf(all.top, __uint_as_float(from[3]));
    }
#pragma unroll
    for (int w = 0; w < WARPS; ++w)
        all.total += __uint_as_float(mine[w * 6 + 4]) * __expf(__uint_as_float(mine[w * 6 + 3]) - all.top);
    return all;
}

// How one row draws; the same for all its codebooks.
struct Drawing {
    u64 start;
    bool is_greedy;
    float penalty, temperature, top_p;
    int window, top_k;
    const long long *recent;
};

DEVICE Drawing drawing_of(const Args &a, int row) {
    const Draws &d = a.draws;
    const long long slot = a.slots[row];
    Drawing r;
    r.start = mixed_bits((u64)d.seeds[slot] * MIX_1 + GOLDEN) + (u64)d.steps[slot] * (GOLDEN << 20);
    r.is_greedy = d.greedy[slot];
    r.penalty = d.penalty[slot], r.temperature = d.temperature[slot], r.top_p = d.top_p[slot];
    r.top_k = d.top_k[slot] < NUM_LOGITS ? (int)d.top_k[slot] : NUM_LOGITS;
    r.window = (int)d.window[slot];
    r.recent = d.recent + slot * d.codebooks * d.width;
    return r;
}

// What a draw needs besides logits, made while they are still computed.
struct Prepared { float noise[VALUES]; u32 repeated; };

DEVICE Prepared prepare_draw(const State &st, const Draws &d, const Drawing &how, int codebook) {
    Prepared r = {};
    const long long *recent = how.recent + codebook * d.width;
    if (how.penalty != 1.f) {
        for (int first = 0; first < how.window; first += 32) {
            const int age = first + st.lane;
            const float theirs = age < how.window ? (float)recent[d.width - 1 - age] : -1.f;
            for (int i = 0; i < 32 && first + i < how.window; ++i) {
                const int code = (int)__shfl_sync(FULL, theirs, i);
#pragma unroll
                for (int j = 0; j < VALUES; ++j)
                    if (code == (j / 2 * THREADS + st.tid) * 2 + j % 2) r.repeated |= 1u << j;
            }
        }
    }
    if (!how.is_greedy)
#pragma unroll
        for (int i = 0; i < VALUES; ++i)
            r.noise[i] = log_of_noise(how.start, d.first_draw + (codebook - 1) * NUM_LOGITS +
                                                     (i / 2 * THREADS + st.tid) * 2 + i % 2);
    return r;
}

// Draw from the logits in row ``letters`` of their box.
DEVICE int draw(State &st, const Args &a, const Drawing &how, const Prepared &ready, int letters,
                u32 stamp) {
    float z[VALUES], p[VALUES], score[VALUES];
    u32 tries = 0;
    bool is_late;
    do {
        is_late = false;
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            const int pair = i * THREADS + st.tid;
            u64 mail = letter(0u, stamp);
            if (pair < NUM_LOGITS / 2) mail = read_letter(a.box_logits + letters * (NUM_LOGITS / 2) + pair);
            z[2 * i] = low_of((u32)mail), z[2 * i + 1] = high_of((u32)mail);
            is_late |= (u32)(mail >> 32) != stamp;
        }
        still_waiting(tries);
    } while (__any_sync(FULL, is_late));
#pragma unroll
    for (int i = 0; i < VALUES; ++i)
        if (ready.repeated >> i & 1) z[i] = z[i] < 0.f ? z[i] * how.penalty : quotient(z[i], how.penalty);
    Reducer r = {st.sm->scratch, 0, st.warp, st.lane};
    Best best;
    if (how.is_greedy) {
        const float nothing[VALUES] = {};
        return likeliest(z, nothing, st.tid, r, best);
    }
#pragma unroll
    for (int i = 0; i < VALUES; ++i) {
        const bool is_code = (i / 2 * THREADS + st.tid) * 2 < NUM_LOGITS;
        score[i] = is_code ? quotient(z[i], how.temperature) - ready.noise[i] : __uint_as_float(0xFF800000u);
        if (!is_code) z[i] = LOWEST;
    }
    const Sums sums = sums_and_winner(z, score, st.tid, r, best);
#pragma unroll
    for (int i = 0; i < VALUES; ++i) p[i] = quotient(__expf(z[i] - sums.top), sums.total);
    best.p = quotient(__expf(best.p - sums.top), sums.total);
    int code = best.code;
    if (how.top_p > 1.f && how.top_k >= NUM_LOGITS) return code;
    while (true) {  // strike out losers until a winner stands inside the cut
        still_waiting(tries);
        float rank = 0.f, mass = 0.f;
        bool is_above[VALUES];
#pragma unroll
        for (int i = 0; i < VALUES; ++i) {
            const int each = (i / 2 * THREADS + st.tid) * 2 + i % 2;
            is_above[i] = each != code && (p[i] > best.p || (p[i] == best.p && each < code));
            if (is_above[i]) rank += 1.f;
            if (is_above[i] || each == code) mass += p[i];
        }
        const Float2 sum = sums_of_block(r, rank, mass);
        if ((sum.v[1] <= how.top_p && sum.v[0] < (float)how.top_k) || sum.v[0] == 0.f) return code;
#pragma unroll
        for (int i = 0; i < VALUES; ++i)
            if (!is_above[i]) score[i] = __uint_as_float(0xFF800000u);
        code = likeliest(score, p, st.tid, r, best);
    }
}
#endif
