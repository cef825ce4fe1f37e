// Resident passes, part 2: linear layers.

// How the features of a layer are cut up: TILES tiles a block, each of 16 matrix rows (two HALVES of
// 8; with GATE the second half is the same features of the other factor) or of 8. A warp takes the
// K / WARPS inputs of its own; a step is the inputs that 16 bytes a lane and half cover.
template <int K_, int TILES_, int HALVES_, bool GATE_, bool INT8_, int FIRST_ = 0>
struct Shape {
    static constexpr int K = K_, TILES = TILES_, HALVES = HALVES_, FIRST = FIRST_;
    static constexpr bool GATE = GATE_, INT8 = INT8_;
    static constexpr int STEP = INT8 ? 64 : 32, PER_LANE = STEP / 4, MMAS = PER_LANE / 4;
    static constexpr int STEPS = K / WARPS / STEP;
    static constexpr int ROWS = TILES * HALVES * 8;  // of weights, a block
    static constexpr int TILE_ROWS = HALVES == 2 && !GATE ? 16 : 8, BYTES = INT8 ? 1 : 2;
    static constexpr int STRIDE = K * BYTES + 64;  // of rows in shared memory: two rows, other banks
    static constexpr int LETTERS = PER_LANE / 2;  // of activations, a lane and step
    // independent chains of sums where there is only one tile
    static constexpr int CHAINS = TILES == 1 && NT <= 2 ? 2 : 1;
    // steps read ahead together, in about 96 registers
    static DEVICE_FUNCTION constexpr int at_once(int steps) {
        return steps * NT * MMAS <= 24 || steps == 1 ? steps : at_once(steps % 2 ? steps / 3 : steps / 2);
    }
    static constexpr int AT_ONCE = at_once(STEPS);
    static_assert(K % (WARPS * STEP) == 0 && STEPS % AT_ONCE == 0, "width does not fit");
};
using QkvShape = Shape<DIM, QKV / (16 * NCTA), 2, false, IS_INT8>;
using OutShape = Shape<HEADS * HEAD_DIM, DIM / (8 * NCTA), 1, false, IS_INT8>;
using GateShape = Shape<DIM, INTER / (8 * NCTA), 2, true, IS_INT8>;
using DownShape = Shape<INTER, DIM / (8 * NCTA), 1, false, IS_INT8>;
constexpr int HEAD_HALVES = NUM_LOGITS >= 16 * NCTA ? 2 : 1;
constexpr int HEAD_TILES = NUM_LOGITS / (8 * HEAD_HALVES * NCTA);
using HeadShape = Shape<DIM, HEAD_TILES, HEAD_HALVES, false, false>;
constexpr int HEAD_DONE = HEAD_TILES * HeadShape::TILE_ROWS * NCTA;
constexpr int REST_TILES = (NUM_LOGITS - HEAD_DONE + 15) / 16;
using RestShape = Shape<DIM, 1, 2, false, false, HEAD_DONE>;  // the last few logits
static_assert(QkvShape::TILES * 16 * NCTA == QKV && OutShape::TILES * 8 * NCTA == DIM &&
                  GateShape::TILES * 8 * NCTA == INTER && HEAD_TILES > 0 && REST_TILES <= NCTA,
              "features do not divide among the blocks");
static_assert(IS_SLOW || REST_TILES == 0, "codes are drawn from whole tiles");

DEVICE constexpr int larger(int a, int b) { return a > b ? a : b; }

// Where the rows of a phase lie. The head uses the place of the first phase, its rest that of the
// second. Where the room is short, OUT and DOWN use the same place, and GATE's last rows that of
// QKV's last, which then are fetched later.
enum Phase { QKV_PHASE, OUT_PHASE, GATE_PHASE, DOWN_PHASE };
enum Barrier { QKV_EARLY, QKV_LATE, OUT_THERE, GATE_OWN, GATE_SHARED, DOWN_THERE, BARRIERS };
template <class S> DEVICE constexpr int bytes_of() { return S::ROWS * S::STRIDE; }
constexpr int QKV_ROOM = larger(bytes_of<QkvShape>(), bytes_of<HeadShape>());
constexpr int OUT_ROOM = larger(bytes_of<OutShape>(), REST_TILES > 0 ? bytes_of<RestShape>() : 0);
constexpr int GATE_ROOM = bytes_of<GateShape>(), DOWN_ROOM = bytes_of<DownShape>();
constexpr bool IS_AMPLE = QKV_ROOM + OUT_ROOM + GATE_ROOM + DOWN_ROOM <= ROOM;
constexpr int OUT_DOWN_ROOM = IS_AMPLE ? OUT_ROOM + DOWN_ROOM : larger(OUT_ROOM, DOWN_ROOM);
constexpr int MISSING = larger(0, QKV_ROOM + OUT_DOWN_ROOM + GATE_ROOM - ROOM);
// whole halves of tiles
constexpr int SHARED_ROWS = (MISSING + 8 * GateShape::STRIDE - 1) / (8 * GateShape::STRIDE) * 8;
constexpr int OWN_GATE = GateShape::ROWS - SHARED_ROWS, EARLY_QKV = QKV_ROOM / QkvShape::STRIDE - SHARED_ROWS;
static_assert(EARLY_QKV > 0 && OWN_GATE > 0, "too little shared memory");
static_assert(SHARED_ROWS == 0 || QkvShape::STRIDE == HeadShape::STRIDE, "rows of another length");
template <class S, Phase P> DEVICE constexpr int place(int row) {
    return P == QKV_PHASE    ? row * S::STRIDE
           : P == OUT_PHASE  ? QKV_ROOM + row * S::STRIDE
           : P == DOWN_PHASE ? QKV_ROOM + (IS_AMPLE ? OUT_ROOM : 0) + row * S::STRIDE
           : row < OWN_GATE  ? QKV_ROOM + OUT_DOWN_ROOM + row * S::STRIDE
                             : (EARLY_QKV + row - OWN_GATE) * S::STRIDE;
}

constexpr int MOST_TILES = larger(larger(QkvShape::TILES, GateShape::TILES),
                                  larger(OutShape::TILES, HeadShape::TILES));
constexpr int ITEMS = OutShape::TILES * NT * 32;
constexpr int BUFFERS = NT == 1 ? 2 : 1;  // with one, readers and writers are kept apart by a barrier
constexpr int SCRATCH = WARPS * 8 + 64;

struct Shared {
    Float4 sums[BUFFERS][WARPS][MOST_TILES * NT][32];
    float squares[BUFFERS][WARPS][NT * 8];
    float residual[ITEMS][2];
    float mixed[IS_SLOW ? WARPS : 1][SHARE][HEAD_DIM + 4];
    float heads[IS_SLOW ? SHARE + 2 : 1][HEAD_DIM];  // queries, new key, new value
    u32 scratch[SCRATCH];
    u64 barriers[8];
    Layer layers[LAYERS];
};
constexpr int WEIGHTS_START = (sizeof(Shared) + 127) / 128 * 128;

// Where a thread is.
struct State {
    int tid, lane, warp, cta, r, c;
    u32 weights;   // address of the weights' room
    u32 parities;  // of the barriers, a bit each
    int buffer, rows;
    u32 stamp;     // of this pass
    Shared *sm;
};

DEVICE u32 address_of(const State &st, Barrier barrier) {
    return shared_address(&st.sm->barriers[barrier]);
}

// Start copies of the block's rows from FROM up to TO of a phase.
template <class S, Phase P, int FROM, int TO>
DEVICE void fetch(const State &st, Barrier barrier, const char *w, const char *w_other) {
    constexpr int STOP = TO < S::ROWS ? TO : S::ROWS;
    if (FROM >= STOP || st.warp != WARPS - 1) return;
    if (S::FIRST > 0 && st.cta >= REST_TILES) return;
    const u32 done = address_of(st, barrier);
    if (st.lane == 0) expect_bytes(done, (STOP - FROM) * S::K * S::BYTES);
    __syncwarp();
    for (int i = FROM + st.lane; i < STOP; i += 32) {
        const bool is_other = S::GATE && i >= S::ROWS / 2;
        int row = S::FIRST + st.cta * S::TILES * S::TILE_ROWS + (is_other ? i - S::ROWS / 2 : i);
        if (S::FIRST > 0) row = min(row, NUM_LOGITS - 1);  // may end inside the tile
        copy_bulk(st.weights + place<S, P>(i), (is_other ? w_other : w) + (long long)row * (S::K * S::BYTES),
                  S::K * S::BYTES, done);
    }
}

DEVICE void await(State &st, Barrier barrier) {
    u32 tries = 0;
    const u32 at = address_of(st, barrier);
    while (!is_complete(at, st.parities >> barrier & 1)) still_waiting(tries);
    st.parities ^= 1u << barrier;
}

template <class S, Phase P> DEVICE void await_weights(State &st) {
    await(st, P == QKV_PHASE ? QKV_EARLY : P == OUT_PHASE ? OUT_THERE : P == GATE_PHASE ? GATE_OWN : DOWN_THERE);
    if (P == QKV_PHASE && S::ROWS > EARLY_QKV) await(st, QKV_LATE);
    if (P == GATE_PHASE && SHARED_ROWS > 0) await(st, GATE_SHARED);
}

// Where the letter of inputs 2 i, 2 i + 1 lies, so that four lanes read 64 bytes in a row: ``letters``
// of a step belong to one lane.
DEVICE int letter_place(int i, int letters) {
    const int lane = i / letters % 4, own = i % letters;
    return i / (4 * letters) * (4 * letters) + own / 2 * 8 + lane * 2 + own % 2;
}

// Activations, the matrix units' columns: lane (r, c) has row 8 nt + r. With ``squares`` also that
// lane's part of the sums of squares.
template <class S, bool NORM>
DEVICE void read_activations(const State &st, const u64 *box, const u64 *box_squares, u32 stamp,
                             int first_step, u32 (&x)[S::AT_ONCE][NT][2 * S::MMAS],
                             float (&squares)[NT]) {
    constexpr int PARTS = S::K / 8 / WARPS / 4;  // of squares, a lane
    const int first = (st.warp * (S::K / WARPS) + first_step * S::STEP) / 2 + st.c * 2;
    u32 tries = 0;
    bool is_late;
    // look at one letter until it is there, so that the others' way stays free
    if (first_step == 0) {
        do {
            Pair64 mail = {letter(0u, stamp), letter(0u, stamp)};
            if (st.r < st.rows) mail = read_mail(box + st.r * (S::K / 2) + first);
            is_late = (u32)(mail.a >> 32) != stamp;
            still_waiting(tries);
        } while (__any_sync(FULL, is_late));
    }
    do {
        is_late = false;
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
            const int row = nt * 8 + st.r;
            const bool is_row = row < st.rows;
            const u64 *words = box + row * (S::K / 2) + first;
            Pair64 mail[S::AT_ONCE][S::MMAS], parts[PARTS / 2 + 1];
#pragma unroll
            for (int s = 0; s < S::AT_ONCE; ++s)
#pragma unroll
                for (int m = 0; m < S::MMAS; ++m) {
                    mail[s][m] = {letter(0u, stamp), letter(0u, stamp)};
                    if (is_row) mail[s][m] = read_mail(words + s * (S::STEP / 2) + 8 * m);
                }
            if (NORM && first_step == 0) {
#pragma unroll
                for (int i = 0; i < PARTS / 2; ++i) {
                    parts[i] = {letter(0u, stamp), letter(0u, stamp)};
                    if (is_row)
                        parts[i] = read_mail(box_squares + row * (S::K / 8) +
                                             (st.warp * 4 + st.c) * PARTS + 2 * i);
                }
                squares[nt] = 0.f;
#pragma unroll
                for (int i = 0; i < PARTS / 2; ++i) {
                    squares[nt] += __uint_as_float((u32)parts[i].a) + __uint_as_float((u32)parts[i].b);
                    is_late |= (u32)(parts[i].a >> 32) != stamp || (u32)(parts[i].b >> 32) != stamp;
                }
            }
#pragma unroll
            for (int s = 0; s < S::AT_ONCE; ++s)
#pragma unroll
                for (int m = 0; m < S::MMAS; ++m) {
                    x[s][nt][2 * m] = (u32)mail[s][m].a, x[s][nt][2 * m + 1] = (u32)mail[s][m].b;
                    is_late |= (u32)(mail[s][m].a >> 32) != stamp || (u32)(mail[s][m].b >> 32) != stamp;
                }
        }
        still_waiting(tries);
    } while (__any_sync(FULL, is_late));
}

// The same for one or two rows: all lanes read letters of one row, then hand them to the four lanes
// that need them.
template <class S, bool NORM>
DEVICE void read_few_activations(const State &st, const u64 *box, const u64 *box_squares, u32 stamp,
                                 u32 (&x)[S::AT_ONCE][NT][2 * S::MMAS], float (&squares)[NT]) {
    constexpr int READS = S::K / WARPS / 2 / 64 > 0 ? S::K / WARPS / 2 / 64 : 1;
    constexpr int LETTERS = S::K / WARPS / 2, PARTS = S::K / 8 / WARPS;
#pragma unroll
    for (int s = 0; s < S::AT_ONCE; ++s)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt)
#pragma unroll
            for (int m = 0; m < 2 * S::MMAS; ++m) x[s][nt][m] = 0u;
#pragma unroll 1
    for (int row = 0; row < st.rows; ++row) {
        const u64 *words = box + row * (S::K / 2) + st.warp * LETTERS + 2 * st.lane;
        const u64 *parts = box_squares + row * (S::K / 8) + st.warp * PARTS + 2 * st.lane;
        Pair64 mail[READS], part = {letter(0u, stamp), letter(0u, stamp)};
        u32 tries = 0;
        bool is_late;
        do {
#pragma unroll
            for (int i = 0; i < READS; ++i) {
                mail[i] = {letter(0u, stamp), letter(0u, stamp)};
                if (64 * i + 2 * st.lane < LETTERS) mail[i] = read_mail(words + 64 * i);
            }
            if (NORM && 2 * st.lane < PARTS) part = read_mail(parts);
            is_late = (u32)(part.a >> 32) != stamp || (u32)(part.b >> 32) != stamp;
#pragma unroll
            for (int i = 0; i < READS; ++i)
                is_late |= (u32)(mail[i].a >> 32) != stamp || (u32)(mail[i].b >> 32) != stamp;
            still_waiting(tries);
        } while (__any_sync(FULL, is_late));
        const bool is_mine = st.r == row;
#pragma unroll
        for (int s = 0; s < S::AT_ONCE; ++s)
#pragma unroll
            for (int m = 0; m < S::MMAS; ++m) {
                const int place = s * (S::STEP / 2) + 8 * m;  // of the first lane's letters
                const u32 low = handed((u32)mail[place / 64].a, place % 64 / 2 + st.c);
                const u32 high = handed((u32)mail[place / 64].b, place % 64 / 2 + st.c);
                if (is_mine) x[s][0][2 * m] = low, x[s][0][2 * m + 1] = high;
            }
        if (NORM) {
            float sum = __uint_as_float((u32)part.a) + __uint_as_float((u32)part.b);
#pragma unroll
            for (int distance = 1; distance < 32 && 2 * distance < PARTS; distance *= 2)
                sum += __shfl_xor_sync(FULL, sum, distance);
            sum = __uint_as_float(handed(__float_as_uint(sum), 0));
            if (is_mine && st.c == 0) squares[0] = sum;
        }
    }
}

// One linear layer over what is in ``box``. ``finish(item, tile, n, v)`` gets the sums: v[0], v[1] of
// the lane's feature row and of batch rows n, n + 1; v[2], v[3] those of the second half's feature.
template <class S, Phase P, bool NORM, class Finish>
DEVICE void linear(State &st, const Args &a, const u64 *box, const u64 *box_squares, u32 stamp,
                   const float *scale, const float *scale_other, Finish finish) {
    constexpr int NUM_ITEMS = S::TILES * NT * 32, TURNS = (NUM_ITEMS + THREADS - 1) / THREADS;
    float scales[S::INT8 ? TURNS : 1][2];
    if (S::INT8) {
#pragma unroll
        for (int turn = 0; turn < TURNS; ++turn) {
            const int item = turn * THREADS + st.tid;
            const int feature = (st.cta * S::TILES + item / (NT * 32)) * S::TILE_ROWS + st.r;
            const bool is_item = item < NUM_ITEMS;
            scales[turn][0] = is_item ? scale[feature] : 0.f;
            scales[turn][1] = is_item && S::HALVES == 2
                                  ? (S::GATE ? scale_other[feature] : scale[feature + 8]) : 0.f;
        }
    }
    const u32 own = st.weights + st.r * S::STRIDE + (st.warp * (S::K / WARPS) + st.c * S::PER_LANE) * S::BYTES;
    float acc[S::TILES * S::CHAINS][NT][4] = {};
    float squares[NT] = {};
    u32 x[S::AT_ONCE][NT][2 * S::MMAS];
#pragma unroll
    for (int first = 0; first < S::STEPS; first += S::AT_ONCE) {
        if (NT == 1 && S::AT_ONCE == S::STEPS && st.rows <= 2)
            read_few_activations<S, NORM>(st, box, box_squares, stamp, x, squares);
        else
            read_activations<S, NORM>(st, box, box_squares, stamp, first, x, squares);
        if (first == 0) await_weights<S, P>(st);
#pragma unroll
        for (int s = 0; s < S::AT_ONCE; ++s)
#pragma unroll
            for (int tile = 0; tile < S::TILES; ++tile) {
                const int row = tile * S::TILE_ROWS, step = (first + s) * S::STEP * S::BYTES;
                const Words4 top = read_shared(own + place<S, P>(row) + step);
                Words4 bottom = {};
                if (S::HALVES == 2)
                    bottom = read_shared(own + place<S, P>(row + (S::GATE ? S::ROWS / 2 : 8)) + step);
#pragma unroll
                for (int m = 0; m < S::MMAS; ++m) {
                    u32 a0 = top.w[2 * m % 4], a2 = top.w[(2 * m + 1) % 4];
                    u32 a1 = bottom.w[2 * m % 4], a3 = bottom.w[(2 * m + 1) % 4];
                    if (S::INT8) {
                        widened(top.w[m % 4], a0, a2);
                        if (S::HALVES == 2) widened(bottom.w[m % 4], a1, a3);
                    }
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
            v.v[0] *= scales[turn][0], v.v[1] *= scales[turn][0];
            v.v[2] *= scales[turn][1], v.v[3] *= scales[turn][1];
        }
        finish(item, tile, n, v);
    }
    if (BUFFERS == 2) st.buffer ^= 1;
}

// Lanes of neighbouring features swap one of their two rows, so that each posts one row's pair.
// ``letters``: of a reader's lane, see letter_place; 1 leaves them in order.
DEVICE void post_pair(const State &st, u64 *box, int width, int letters, u32 stamp, int feature, int n,
                      float v0, float v1) {
    const bool is_odd = st.r & 1;
    const float swapped = __shfl_xor_sync(FULL, is_odd ? v0 : v1, 4);
    const int row = is_odd ? n + 1 : n;
    const u32 pair = is_odd ? packed(swapped, v1) : packed(v0, swapped);
    const int place = letters == 1 ? feature / 2 : letter_place(feature / 2, letters);
    if (row < st.rows) write_letter(box + row * (width / 2) + place, letter(pair, stamp));
}

// New values of the residual stream, rows n and n + 1 of one feature: kept by this block, and posted
// times the weight of the norm that reads them next, with the tile's sums of squares.
DEVICE void post_stream(const State &st, int item, int n, float v0, float v1, float weight,
                        u64 *box, u64 *box_squares, int letters, u32 stamp) {
    const int tile = st.cta * OutShape::TILES + item / (NT * 32);
    st.sm->residual[item][0] = v0, st.sm->residual[item][1] = v1;
    post_pair(st, box, DIM, letters, stamp, tile * 8 + st.r, n, v0 * weight, v1 * weight);
    float left = v0 * v0, right = v1 * v1;
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) {
        left += __shfl_xor_sync(FULL, left, distance);
        right += __shfl_xor_sync(FULL, right, distance);
    }
    if (st.r < 2 && n + st.r < st.rows)
        write_letter(box_squares + (n + st.r) * (DIM / 8) + tile,
                     letter(__float_as_uint(st.r ? right : left), stamp));
}

// residual + v, rounded as the plain step rounds.
DEVICE void add_residual(const State &st, int item, Float4 &v) {
#pragma unroll
    for (int i = 0; i < 2; ++i) v.v[i] = rounded(st.sm->residual[item][i] + rounded(v.v[i]));
}
