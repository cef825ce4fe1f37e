// Resident passes, part 4: linear layers.

// One linear layer over what ``read`` gets. ``finish(item, tile, n, v)`` gets the sums: v[0], v[1] of
// the lane's feature row and of batch rows n, n + 1; v[2], v[3] those of the second half's feature.
// ``scale``: of the block's own features.
template <class S, Phase P, bool NORM, class Read, class Finish>
DEVICE void linear(State &st, const Args &a, const Read &read, const float *scale, Finish finish) {
    hide(st.tid), hide(st.lane), hide(st.warp), hide(st.cta), hide(st.r), hide(st.c);
    constexpr int NUM_ITEMS = S::TILES * NT * 32, TURNS = (NUM_ITEMS + THREADS - 1) / THREADS;
    const u32 own = st.weights + st.r * S::STRIDE + (st.warp * (S::K / WARPS) + st.c * S::PER_LANE) * S::BYTES;
    float acc[S::TILES * S::CHAINS][NT][4] = {};
    float squares[NT] = {};
    u32 x[S::AT_ONCE][NT][2 * S::MMAS];
    // weights are in registers before the activations come, where all of them have room there
    constexpr bool IS_AHEAD = NT == 1 && S::AT_ONCE == S::STEPS;
    u32 w[IS_AHEAD ? S::STEPS : 1][S::TILES][S::HALVES][2 * S::MMAS];
    await_weights<S, P>(st);
    if (IS_AHEAD) {
#pragma unroll
        for (int step = 0; step < S::STEPS; ++step)
#pragma unroll
            for (int tile = 0; tile < S::TILES; ++tile)
                read_weights<S, P>(own, step, tile, w[IS_AHEAD ? step : 0][tile]);
    }
#pragma unroll
    for (int first = 0; first < S::STEPS; first += S::AT_ONCE) {
        read(st, first, x, squares);
#pragma unroll
        for (int s = 0; s < S::AT_ONCE; ++s)
#pragma unroll
            for (int tile = 0; tile < S::TILES; ++tile) {
                auto &rows = w[IS_AHEAD ? s : 0][tile];
                if (!IS_AHEAD) read_weights<S, P>(own, first + s, tile, rows);
#pragma unroll
                for (int m = 0; m < S::MMAS; ++m) {
                    const u32 a0 = rows[0][2 * m], a2 = rows[0][2 * m + 1];
                    const u32 a1 = S::HALVES == 2 ? rows[S::HALVES - 1][2 * m] : 0u;
                    const u32 a3 = S::HALVES == 2 ? rows[S::HALVES - 1][2 * m + 1] : 0u;
#pragma unroll
                    for (int nt = 0; nt < NT; ++nt)
                        multiply_add(acc[tile * S::CHAINS + m % S::CHAINS][nt], a0, a1, a2, a3,
                                     x[s][nt][2 * m], x[s][nt][2 * m + 1]);
                }
            }
    }
    if (BUFFERS == 1) __syncthreads();
    auto &sums = st.sm->sums[st.buffer];
#pragma unroll
    for (int tile = 0; tile < S::TILES; ++tile)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
            Float4 v;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                v.v[i] = acc[tile * S::CHAINS][nt][i];
                if (S::CHAINS == 2) v.v[i] += acc[tile * S::CHAINS + S::CHAINS - 1][nt][i];
            }
            sums[st.warp][tile * NT + nt][st.lane] = v;
        }
    if (NORM) {
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
            squares[nt] += __shfl_xor_sync(FULL, squares[nt], 1);
            squares[nt] += __shfl_xor_sync(FULL, squares[nt], 2);
            if (st.c == 0) st.sm->squares[st.buffer][st.warp][nt * 8 + st.r] = squares[nt];
        }
    }
    __syncthreads();
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        const int item = turn * THREADS + st.tid;
        if (item >= NUM_ITEMS) continue;  // whole warps
        const int tile = item / (NT * 32), nt = item / 32 % NT, n = nt * 8 + 2 * st.c;
        Float4 v = {};
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const Float4 part = sums[w][tile * NT + nt][st.lane];
#pragma unroll
            for (int i = 0; i < 4; ++i) v.v[i] += part.v[i];
        }
        if (NORM) {
            float left = 0.f, right = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; ++w) {
                const Float2 part = *(const Float2 *)&st.sm->squares[st.buffer][w][n];
                left += part.v[0], right += part.v[1];
            }
            left = rsqrtf(left * (1.f / S::K) + a.eps), right = rsqrtf(right * (1.f / S::K) + a.eps);
            v.v[0] *= left, v.v[2] *= left, v.v[1] *= right, v.v[3] *= right;
        }
        if (S::INT8) {
            const float *own_scale = scale + tile * S::TILE_ROWS + st.r;
            v.v[0] *= own_scale[0], v.v[1] *= own_scale[0];
            if (S::HALVES == 2) {
                const float lower = own_scale[S::GATE ? S_UP - S_GATE : 8];
                v.v[2] *= lower, v.v[3] *= lower;
            }
        }
        finish(item, tile, n, v);
    }
    if (BUFFERS == 2) st.buffer ^= 1;
}

// Lanes of neighbouring features swap one of their two rows, so that each posts one row's pair.
// ``place``: of the feature's pair in a row of ``width``.
DEVICE void post_pair(const State &st, u64 *box, int width, int place, u32 stamp, int n, float v0, float v1) {
    const bool is_odd = st.r & 1;
    const float swapped = __shfl_xor_sync(FULL, is_odd ? v0 : v1, 4);
    const int row = is_odd ? n + 1 : n;
    const u32 pair = is_odd ? packed(swapped, v1) : packed(v0, swapped);
    if (row < st.rows) post(box, NT * 8 * (width / 2), row * (width / 2) + place, letter(pair, stamp));
}

// New values of the residual stream, rows n and n + 1 of one feature: kept by this block, and posted
// times the weight of the norm that reads them next, with the tile's sums of squares.
DEVICE void post_stream(const State &st, int item, int n, float v0, float v1, float weight,
                        u64 *box, u64 *box_squares, int place, u32 stamp) {
    const int tile = st.cta * OutShape::TILES + item / (NT * 32);
    st.sm->residual[item][0] = v0, st.sm->residual[item][1] = v1;
    post_pair(st, box, DIM, place, stamp, n, v0 * weight, v1 * weight);
    float left = v0 * v0, right = v1 * v1;
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) {
        left += __shfl_xor_sync(FULL, left, distance);
        right += __shfl_xor_sync(FULL, right, distance);
    }
    if (st.r < 2 && n + st.r < st.rows)
        post(box_squares, NT * 8 * (DIM / 8), (n + st.r) * (DIM / 8) + tile,
             letter(__float_as_uint(st.r ? right : left), stamp));
}

// residual + v, rounded as the plain step rounds.
DEVICE void add_residual(const State &st, int item, Float4 &v) {
#pragma unroll
    for (int i = 0; i < 2; ++i) v.v[i] = rounded(st.sm->residual[item][i] + rounded(v.v[i]));
}

