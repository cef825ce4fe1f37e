// Resident passes, part 9: the order of things.

constexpr int STAMPS = LAYERS * 8 + 16;  // of a pass

// What a pass is, and what comes behind it.
struct Plan {
    bool has_logits, has_more;
};

DEVICE const char *next_qkv(const State &st, const Plan &plan, int idx) {
    return idx + 1 < LAYERS ? st.sm->layers[idx + 1].wqkv
           : plan.has_more && !plan.has_logits ? st.sm->layers[0].wqkv : nullptr;
}

// Rows of whatever takes the place of QKV behind layer ``idx``: the early or the late ones.
template <bool IS_LATE>
DEVICE void fetch_next_qkv(const State &st, const Args &a, const Plan &plan, int idx) {
    constexpr int FROM = IS_LATE ? EARLY_QKV : 0, TO = IS_LATE ? 1 << 20 : EARLY_QKV;
    constexpr Barrier BARRIER = IS_LATE ? QKV_LATE : QKV_EARLY;
    const char *next = next_qkv(st, plan, idx);
    if (next) fetch<QkvShape, QKV_PHASE, FROM, TO>(st, BARRIER, next, nullptr);
    else if (plan.has_logits) fetch<HeadShape, QKV_PHASE, FROM, TO>(st, BARRIER, a.head, nullptr);
}

DEVICE void fetch_out(const State &st, const char *w) {
    fetch<OutShape, OUT_PHASE, 0, OutShape::ROWS>(st, OUT_THERE, w, nullptr);
}

DEVICE void fetch_next_out(const State &st, const Args &a, const Plan &plan, int idx) {
    const bool is_last = idx + 1 == LAYERS;
    if (!is_last || plan.has_more) fetch_out(st, st.sm->layers[is_last ? 0 : idx + 1].wo);
    else if (REST_TILES > 0)
        fetch<RestShape, OUT_PHASE, 0, RestShape::ROWS>(st, OUT_THERE, a.head, nullptr);
}

DEVICE void fetch_gate(const State &st, const Layer &layer) {
    fetch<GateShape, GATE_PHASE, 0, OWN_GATE>(st, GATE_OWN, layer.w1, layer.w3);
}

DEVICE void fetch_down(const State &st, const Layer &layer) {
    fetch<DownShape, DOWN_PHASE, 0, DownShape::ROWS>(st, DOWN_THERE, layer.w2, nullptr);
}

DEVICE void fetch_first_qkv(const State &st) {
    const char *w = st.sm->layers[0].wqkv;
    fetch<QkvShape, QKV_PHASE, 0, EARLY_QKV>(st, QKV_EARLY, w, nullptr);
    fetch<QkvShape, QKV_PHASE, EARLY_QKV, QkvShape::ROWS>(st, QKV_LATE, w, nullptr);
}

// Bring what the block's own features need.
DEVICE void keep_own(const State &st, const Args &a) {
    for (int i = st.tid; i < (2 * LAYERS + 1) * OWN; i += THREADS) {
        const int number = i / OWN, idx = number / 2;
        const u16 *norm = idx == LAYERS ? a.head_norm
                          : number % 2 ? a.layers[idx].ffn_norm : a.layers[idx].attention_norm;
        st.sm->norms[number][i % OWN] = norm[st.cta * OWN + i % OWN];
    }
    for (int i = st.tid; IS_INT8 && i < LAYERS * SCALES; i += THREADS) {
        const Layer &layer = a.layers[i / SCALES];
        const int at = i % SCALES;
        st.sm->scales[i / SCALES][at] = at < S_OUT    ? layer.s_qkv[st.cta * OWN_QKV + at]
                                        : at < S_GATE ? layer.s_o[st.cta * OWN + at - S_OUT]
                                        : at < S_UP   ? layer.s_1[st.cta * OWN_INNER + at - S_GATE]
                                        : at < S_DOWN ? layer.s_3[st.cta * OWN_INNER + at - S_UP]
                                                      : layer.s_2[st.cta * OWN + at - S_DOWN];
    }
}

// Where in a row the pair lies that an item's thread posts of the stream, for readers of a shape.
template <class S> DEVICE int own_place(const State &st, int item) {
    return letter_place(((st.cta * OutShape::TILES + item / (NT * 32)) * 8 + st.r) / 2, S::LETTERS);
}

// Few rows that enter a pass are read where they lie by every block: no block has to post them.
DEVICE void read_entering(const State &st, const Args &a, u32 (&x)[QkvShape::AT_ONCE][NT][2 * QkvShape::MMAS],
                          float (&squares)[NT]) {
    constexpr int PAIRS_OF_WARP = DIM / WARPS / 2, READS = (PAIRS_OF_WARP + 63) / 64;
    constexpr int L = QkvShape::LETTERS;
#pragma unroll 1
    for (int row = 0; row < st.rows; ++row) {
        Pair64 pairs[READS] = {};
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < READS; ++i) {
            const int place = 64 * i + 2 * st.lane, rest = place % (4 * L);
            if (place >= PAIRS_OF_WARP) continue;
            // the inverse of letter_place
            const int pair = place / (4 * L) * (4 * L) + rest % 8 / 2 * L + rest / 8 * 2 + rest % 2;
            const int feature = 2 * (st.warp * PAIRS_OF_WARP + pair);
            const Two v = *(const Two *)(st.sm->entering[row] + feature);
            const Two w = *(const Two *)(a.layers[0].attention_norm + feature);
            float f[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                f[j] = j % 2 ? high_of(v.w[j / 2]) : low_of(v.w[j / 2]);
                sum += f[j] * f[j];
                f[j] *= j % 2 ? high_of(w.w[j / 2]) : low_of(w.w[j / 2]);
            }
            pairs[i] = {packed(f[0], f[1]), packed(f[2], f[3])};
        }
        hand_on<QkvShape>(st, pairs, row, x);
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) sum += __shfl_xor_sync(FULL, sum, distance);
        if (st.r == row && st.c == 0) squares[0] = sum;
    }
}

// Activations of the first linear layer of a layer: from the mail, but where few rows enter a pass.
struct Entry {
    const Args &a;
    bool is_first;
    Mail<QkvShape, true> mail;
    DEVICE_FUNCTION void operator()(const State &st, int first_step,
                                    u32 (&x)[QkvShape::AT_ONCE][NT][2 * QkvShape::MMAS],
                                    float (&squares)[NT]) const {
        if (!is_first || !are_few<QkvShape>()) mail(st, first_step, x, squares);
        else read_entering(st, a, x, squares);
    }
};

// Weight of a norm at the feature that an item posts.
DEVICE float own_norm(const State &st, int number, int item) {
    return wide(st.sm->norms[number][item / (NT * 32) * 8 + st.r]);
}

DEVICE void run_layer(State &st, const Args &a, const Plan &plan, const Place &place, int idx) {
    const Layer &layer = st.sm->layers[idx];
    const bool is_last = idx + 1 == LAYERS, goes_on = !is_last || plan.has_more;
    const Layer &next = st.sm->layers[is_last ? 0 : idx + 1];
    const u32 stamp = st.stamp + idx * 8;  // + 0 x, 1 qkv, 2 part, 3 mixed, 4 mid, 5 inner
    const float *scales = st.sm->scales[IS_INT8 ? idx : 0];
    Ahead ahead = read_ahead(st, a, layer, place);
    linear<QkvShape, QKV_PHASE, true>(
        st, a, Entry{a, idx == 0, {a.box_x, a.box_squares, stamp}}, scales + S_QKV,
        [&](int item, int tile, int n, Float4 &v) {
            const int pair = ((st.cta * QkvShape::TILES + tile) * 16 + st.r) / 2;
            post_pair(st, a.box_qkv, QKV, pair, stamp + 1, n, v.v[0], v.v[1]);
            post_pair(st, a.box_qkv, QKV, pair + 4, stamp + 1, n, v.v[2], v.v[3]);
        });
    fetch<GateShape, GATE_PHASE, OWN_GATE, GateShape::ROWS>(st, GATE_SHARED, layer.w1, layer.w3);
    fetch_next_qkv<false>(st, a, plan, idx);
    attend(st, a, layer, stamp + 1, place, ahead);
    linear<OutShape, OUT_PHASE, false>(
        st, a, mixed_of(a, place, idx, stamp + 1), scales + S_OUT,
        [&](int item, int tile, int n, Float4 &v) {
            add_residual(st, item, v);
            post_stream(st, item, n, v.v[0], v.v[1], own_norm(st, 2 * idx + 1, item),
                        a.box_mid, a.box_mid_squares, own_place<GateShape>(st, item), stamp + 4);
        });
    if (IS_AMPLE) fetch_next_out(st, a, plan, idx);
    else fetch_down(st, layer);
    linear<GateShape, GATE_PHASE, true>(
        st, a, Mail<GateShape, true>{a.box_mid, a.box_mid_squares, stamp + 4}, scales + S_GATE,
        [&](int item, int tile, int n, Float4 &v) {
            const int feature = (st.cta * GateShape::TILES + tile) * 8 + st.r;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float gate = rounded(v.v[i]), up = rounded(v.v[i + 2]);
                v.v[i] = rounded(__fdividef(gate, 1.f + __expf(-gate))) * up;
            }
            post_pair(st, a.box_inner, INTER, letter_place(feature / 2, DownShape::LETTERS), stamp + 5, n,
                      v.v[0], v.v[1]);
        });
    fetch_next_qkv<true>(st, a, plan, idx);
    if (goes_on) fetch_gate(st, next);
    linear<DownShape, DOWN_PHASE, false>(
        st, a, Mail<DownShape, false>{a.box_inner, nullptr, stamp + 5}, scales + S_DOWN,
        [&](int item, int tile, int n, Float4 &v) {
            const int feature = (st.cta * DownShape::TILES + tile) * 8 + st.r;
            add_residual(st, item, v);
            const int for_qkv = own_place<QkvShape>(st, item), for_head = own_place<HeadShape>(st, item);
            post_stream(st, item, n, v.v[0], v.v[1], own_norm(st, 2 * idx + 2, item),
                        a.box_x, a.box_squares, is_last && plan.has_logits ? for_head : for_qkv, stamp + 8);
            if (IS_SLOW && is_last) {
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    if (n + i < st.rows)
                        a.x_out[(n + i) * a.x_out_stride + feature] = (u16)packed(v.v[i], 0.f);
            }
        });
    if (!IS_AMPLE) fetch_next_out(st, a, plan, idx);
    else if (goes_on) fetch_down(st, next);
}

template <class S, Phase P> DEVICE void put_logits(State &st, const Args &a) {
    const u32 stamp = st.stamp + LAYERS * 8;
    linear<S, P, true>(
        st, a, Mail<S, true>{a.box_x, a.box_squares, stamp}, nullptr,
        [&](int item, int tile, int n, Float4 &v) {
            const int first = S::FIRST + (st.cta * S::TILES + tile) * S::TILE_ROWS + st.r;
#pragma unroll
            for (int half = 0; half < S::HALVES; ++half) {
                const int feature = first + half * 8;
                if (!IS_SLOW) {
                    post_pair(st, a.box_logits, NUM_LOGITS, feature / 2, stamp + 1, n, v.v[2 * half],
                              v.v[2 * half + 1]);
                    continue;
                }
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    if (n + i < st.rows && feature < NUM_LOGITS)
                        a.logits[(n + i) * a.logits_stride + feature] =
                            (u16)packed(v.v[2 * half + i], 0.f);
            }
        });
}

// The rows that enter a pass: given ones, or the embeddings of the codes drawn last. Each block takes
// its own features of them into the stream; many rows it posts as well, of few it leaves the places.
DEVICE void enter(State &st, const Args &a, const u16 *x, long long stride, u32 code_stamp) {
    constexpr bool is_posted = !are_few<QkvShape>();
#pragma unroll
    for (int turn = 0; turn < (ITEMS + THREADS - 1) / THREADS; ++turn) {
        const int item = turn * THREADS + st.tid;
        if (item >= ITEMS) continue;  // whole warps
        const int n = item / 32 % NT * 8 + 2 * st.c;
        const int feature = (st.cta * OutShape::TILES + item / (NT * 32)) * 8 + st.r;
        float v[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const u16 *from = x + (n + i) * stride;
            u32 tries = 0;
            if (!x && n + i < st.rows) {
                u64 mail = read_letter(a.box_codes + n + i);
                while ((u32)(mail >> 32) != code_stamp) {
                    still_waiting(tries);
                    mail = read_letter(a.box_codes + n + i);
                }
                from = a.draws.embeddings + (long long)(u32)mail * DIM;
            }
            if (!is_posted && item < 32 && n + i < st.rows && st.r == 0) st.sm->entering[n + i] = from;
            v[i] = n + i < st.rows ? wide(from[feature]) : 0.f;
        }
        st.sm->residual[item][0] = v[0], st.sm->residual[item][1] = v[1];
        if (is_posted)
            post_stream(st, item, n, v[0], v[1], own_norm(st, 0, item), a.box_x, a.box_squares,
                        own_place<QkvShape>(st, item), st.stamp);
    }
    if (!is_posted) __syncthreads();
}

#if IS_SLOW
DEVICE void run_passes(State &st, const Args &a) {
    const Plan plan = {true, false};
    const Place place = place_of(st, a, st.cta);
    st.rows = a.batch;
    enter(st, a, a.x, a.x_stride, 0u);
    for (int idx = 0; idx < LAYERS; ++idx) run_layer(st, a, plan, place, idx);
    put_logits<HeadShape, QKV_PHASE>(st, a);
    if (REST_TILES > 0 && st.cta < REST_TILES) put_logits<RestShape, OUT_PHASE>(st, a);
}
#else
// All passes of a frame: positions 0 and 1 together where two rows a sequence fit, then one each.
DEVICE void run_passes(State &st, const Args &a) {
    const bool can_pair = 2 * a.batch <= 8 * NT;
    const int last = a.draws.codebooks - 1;
    const bool draws = st.cta < a.batch;  // block b draws for row b
    for (int position = 0; position <= last; ++position) {
        const bool is_pair = position == 0 && can_pair;
        const int codebook = is_pair ? 1 : position;
        const Plan plan = {codebook > 0, codebook < last};
        const Place place = {position, is_pair};
        st.rows = is_pair ? 2 * a.batch : a.batch;
        const u16 *x = position < 2 ? a.x + position * a.x_stride : nullptr;
        enter(st, a, x, is_pair ? a.x_stride : 2 * a.x_stride, st.stamp - STAMPS + LAYERS * 8 + 2);
        for (int idx = 0; idx < LAYERS; ++idx) run_layer(st, a, plan, place, idx);
        if (plan.has_logits) {
            Drawing how = {};
            Prepared ready = {};
            if (draws) how = drawing_of(a, st.cta), ready = prepare_draw(st, a.draws, how, codebook);
            put_logits<HeadShape, QKV_PHASE>(st, a);
            if (plan.has_more) fetch_first_qkv(st);
            if (draws) {
                const int code = draw(st, a, how, ready, is_pair ? 2 * st.cta + 1 : st.cta,
                                      st.stamp + LAYERS * 8 + 1);
                if (st.tid == 0) {
                    a.draws.codes[st.cta * a.draws.codebooks + codebook] = code;
                    write_letter(a.box_codes + st.cta,
                                 letter((u32)code, st.stamp + LAYERS * 8 + 2));
                }
            }
        }
        position = codebook;
        st.stamp += STAMPS;
    }
}
#endif

DEVICE void run(const Args &a) {
    State st;
    st.tid = threadIdx.x, st.lane = st.tid % 32, st.warp = st.tid / 32, st.cta = blockIdx.x;
    st.r = st.lane / 4, st.c = st.lane % 4, st.buffer = 0;
    st.sm = (Shared *)shared_base();
    st.weights = shared_address(shared_base() + WEIGHTS_START), st.parities = 0;
    for (int i = st.tid; i < LAYERS * (int)(sizeof(Layer) / 8); i += THREADS)
        ((u64 *)st.sm->layers)[i] = ((const u64 *)a.layers)[i];
    if (st.tid == 0) {
        for (int i = 0; i < BARRIERS; ++i) make_barrier(address_of(st, (Barrier)i));
        show_barriers_to_copies();
    }
    __syncthreads();
    fetch_first_qkv(st);
    fetch_out(st, st.sm->layers[0].wo);
    fetch_gate(st, st.sm->layers[0]);
    if (IS_AMPLE) fetch_down(st, st.sm->layers[0]);
    keep_own(st, a);
    __syncthreads();
    wait_for_kernel_before();
    let_next_kernel_start();
    const u32 epoch = *(volatile u32 *)a.epoch;
    st.stamp = (epoch + 1) * 1024;
    run_passes(st, a);
    // every block has read the count, or this one could not have come here
    if (st.cta == 0 && st.tid == 0) *a.epoch = epoch + 1;
}

static_assert((IS_SLOW ? 1 : MOST_CODES) * STAMPS <= 1024 && (IS_SLOW || 8 * NT <= NCTA), "stamps of a launch, blocks that draw");

#ifndef EMULATED
extern "C" __global__ void __launch_bounds__(THREADS, 1) resident_pass(const __grid_constant__ Args args) {
    run(args);
}
#endif
