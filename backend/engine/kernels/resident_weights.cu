// Resident passes, part 2: weights, how they are cut up and how they come; shared memory.

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
constexpr int ENTERING = 4;  // rows of two sequences, each with a pair
static_assert(!IS_FEW || NT == 1, "few rows");

// Features of a block: of the residual stream, and of all linear layers behind each other.
constexpr int OWN = DIM / NCTA, OWN_INNER = INTER / NCTA, OWN_QKV = QKV / NCTA;
enum Scales { S_QKV, S_OUT = OWN_QKV, S_GATE = S_OUT + OWN, S_UP = S_GATE + OWN_INNER,
              S_DOWN = S_UP + OWN_INNER, SCALES = S_DOWN + OWN };

static_assert(MOST_TILES * NT * 32 * 16 >= larger(DIM, larger(INTER, HEADS * HEAD_DIM)) / WARPS * 2,
              "activations of a warp");

struct Shared {
    Float4 sums[BUFFERS][WARPS][MOST_TILES * NT][32];
    float squares[BUFFERS][WARPS][NT * 8];
    float residual[ITEMS][2];
    float mixed[IS_SLOW ? WARPS : 1][SHARE][HEAD_DIM + 4];
    float heads[IS_SLOW ? SHARE + 2 : 1][HEAD_DIM];  // queries, new key, new value
    u32 scratch[SCRATCH];
    u64 barriers[8];
    const u16 *entering[ENTERING];
    Layer layers[LAYERS];
    // What the block's own features need, kept here since memory that is busy with weights answers late.
    float scales[IS_INT8 ? LAYERS : 1][IS_INT8 ? SCALES : 1];
    u16 norms[2 * LAYERS + 1][OWN];  // in front of attention and of the gate, layer by layer; of the head
};
constexpr int WEIGHTS_START = (sizeof(Shared) + 127) / 128 * 128;
static_assert(WEIGHTS_START <= FIXED, "more than the host reckons with");

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

// Warps that start copies, a few each: not those that finish sums, which others wait for.
constexpr int FETCHING = WARPS - 3;

// Start copies of the block's rows from FROM up to TO of a phase.
template <class S, Phase P, int FROM, int TO>
DEVICE void fetch(const State &st, Barrier barrier, const char *w, const char *w_other) {
    constexpr int STOP = TO < S::ROWS ? TO : S::ROWS;
    const int own = st.warp - (WARPS - FETCHING);
    if (FROM >= STOP || own < 0) return;
    if (S::FIRST > 0 && st.cta >= REST_TILES) return;
    const u32 done = address_of(st, barrier);
    if (own == 0 && st.lane == 0) expect_bytes(done, (u32)((STOP - FROM) * S::K * S::BYTES));
    for (int i = FROM + own + FETCHING * st.lane; i < STOP; i += FETCHING * 32) {
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

// Weights of one step and tile as the matrix units take them.
template <class S, Phase P>
DEVICE void read_weights(u32 own, int step, int tile, u32 (&w)[S::HALVES][2 * S::MMAS]) {
#pragma unroll
    for (int half = 0; half < S::HALVES; ++half) {
        const int row = tile * S::TILE_ROWS + half * (S::GATE ? S::ROWS / 2 : 8);
        const Words4 four = read_shared(own + place<S, P>(row) + step * S::STEP * S::BYTES);
#pragma unroll
        for (int m = 0; m < S::MMAS; ++m) {
            w[half][2 * m] = four.w[2 * m % 4], w[half][2 * m + 1] = four.w[(2 * m + 1) % 4];
            if (S::INT8) widened(four.w[m % 4], w[half][2 * m], w[half][2 * m + 1]);
        }
    }
}

