// One linear layer of a batch, with the norm in front and the gate or the residual behind.
//
//     out[n] = (out[n] +) gate(norm(x[n]) @ w.T)
//
// A cluster of CK blocks owns TILES tiles of 16 features; each of its blocks takes K / CK inputs. What
// a block needs of the weights comes into its shared memory by bulk copies before it waits for the
// kernel in front, so it has all of them by the time the activations are there. Its warps share the
// inputs (WK of them) and the tiles (WN); 8 NT rows are done at a time. Their sums are added up in
// shared memory, first in the block, then in the block of the cluster that owns the result.
//
// The weights are the matrix units' rows, the batch their columns, so each sum is made in one order,
// whatever the batch. A norm's root is applied behind the product.
//
// Sizes are compiled in (-D): K, TILES, CK, WN, NT, IS_GATE (a tile is 8 features of both factors),
// IS_INT8, HAS_NORM, HAS_RESIDUAL.

constexpr int WARPS = 8, THREADS = 256, WK = WARPS / WN;
constexpr int BYTES = IS_INT8 ? 1 : 2;
constexpr int STEP = IS_INT8 ? 64 : 32;  // inputs that 16 bytes a lane and row cover
constexpr int PER_LANE = STEP / 4, WORDS = PER_LANE / 2, MMAS = PER_LANE / 4;
constexpr int OWN_K = K / CK, WARP_K = OWN_K / WK, STEPS = WARP_K / STEP;
constexpr int OWN_TILES = TILES / WN;    // of a warp
constexpr int ROWS = TILES * 16;         // of weights
constexpr int STRIDE = OWN_K * BYTES + 64;  // of rows in shared memory: two rows, other banks
constexpr int ITEMS = TILES * NT;        // 16 features of 8 rows, a lane four of these
constexpr int OWN_ITEMS = (ITEMS + CK - 1) / CK, TURNS = (OWN_ITEMS + WARPS - 1) / WARPS;
constexpr int INBOXES = CK > 1 ? 2 : 1;
static_assert(TILES % WN == 0 && WARPS % WN == 0 && OWN_K % (WK * STEP) == 0, "sizes do not fit");
// steps whose activations are read together, in up to 64 registers
DEVICE constexpr int at_once(int steps) {
    return steps * NT * WORDS <= 64 || steps == 1 ? steps : at_once(steps % 2 ? steps / 3 : steps / 2);
}
constexpr int AT_ONCE = at_once(STEPS);
static_assert(STEPS % AT_ONCE == 0, "steps do not divide");

struct Args {
    const u16 *x;                        // [rows, K], x_stride apart
    const char *w, *w_other;             // [features, K]
    const float *scale, *scale_other;    // [features], of int8 weights
    const u16 *norm;                     // [K]
    u16 *out;                            // [rows, features], out_stride apart
    long long x_stride, out_stride;
    int rows;
    float eps;
};

struct Shared {
    Float4 sums[WARPS][OWN_TILES * NT][32];
    float squares[WARPS][NT * 8];
    Float4 inbox[INBOXES][CK][OWN_ITEMS][32];    // what the blocks of the cluster have summed up
    float inbox_squares[INBOXES][CK][NT * 8];
    alignas(16) u16 norm[HAS_NORM ? OWN_K : 8];
    u64 barrier;
};
constexpr int WEIGHTS_START = (sizeof(Shared) + 127) / 128 * 128;
constexpr int SHARED_BYTES = WEIGHTS_START + ROWS * STRIDE;

// Where a thread is.
struct State {
    int tid, lane, warp, r, c;
    int rank, cluster;    // of the block in its cluster, of the cluster in the grid
    int part, group;      // of the inputs, of the tiles: the warp's
    u32 weights, barrier;
    Shared *sm;
};

DEVICE void fetch_weights(const State &st, const Args &a) {
    if (st.warp != WARPS - 1) return;
    if (st.lane == 0) {
        expect_bytes(st.barrier, ROWS * OWN_K * BYTES + (HAS_NORM ? OWN_K * 2 : 0));
        if (HAS_NORM)
            copy_bulk(shared_address(st.sm->norm), a.norm + st.rank * OWN_K, OWN_K * 2, st.barrier);
    }
    __syncwarp();
    for (int i = st.lane; i < ROWS; i += 32) {
        const int tile = st.cluster * TILES + i / 16;
        const bool is_other = IS_GATE && i % 16 >= 8;
        const int feature = IS_GATE ? tile * 8 + i % 8 : tile * 16 + i % 16;
        const char *from = (is_other ? a.w_other : a.w) + ((long long)feature * K + st.rank * OWN_K) * BYTES;
        copy_bulk(st.weights + i * STRIDE, from, OWN_K * BYTES, st.barrier);
    }
}

// First of the block's inputs that a lane takes in a step.
DEVICE int input_of(const State &st, int step) {
    return st.part * WARP_K + step * STEP + st.c * PER_LANE;
}

DEVICE void read_words(const u16 *from, bool is_there, u32 (&to)[WORDS]) {
#pragma unroll
    for (int i = 0; i < WORDS / 4; ++i) {
        Words4 four = {};
        if (is_there) four = ((const Words4 *)from)[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) to[4 * i + j] = four.w[j];
    }
}

typedef u32 Activations[AT_ONCE][NT][WORDS];

// Columns of the matrix units: lane (r, c) has row 8 nt + r.
DEVICE void read_activations(const State &st, const Args &a, int first_row, int first_step, Activations &x) {
#pragma unroll
    for (int s = 0; s < AT_ONCE; ++s)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
            const int row = first_row + nt * 8 + st.r;
            read_words(a.x + row * a.x_stride + st.rank * OWN_K + input_of(st, first_step + s),
                       row < a.rows, x[s][nt]);
        }
}

// Of one step of those that were read.
DEVICE void normalize(const State &st, u32 (&x)[NT][WORDS], int step, float (&squares)[NT]) {
#pragma unroll
    for (int four = 0; four < WORDS / 4; ++four) {
        const Words4 norm = read_shared(shared_address(&st.sm->norm[input_of(st, step) + 8 * four]));
#pragma unroll
        for (int nt = 0; nt < NT; ++nt)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                u32 &pair = x[nt][4 * four + i];
                squares[nt] += low_of(pair) * low_of(pair);
                squares[nt] += high_of(pair) * high_of(pair);
                pair = multiplied(pair, norm.w[i]);
            }
    }
}

typedef float Sums[OWN_TILES][NT][4];

DEVICE void multiply(const State &st, const u32 (&x)[NT][WORDS], int step, Sums &sums) {
    const u32 own = st.weights + (st.group * OWN_TILES * 16 + st.r) * STRIDE + input_of(st, step) * BYTES;
#pragma unroll
    for (int tile = 0; tile < OWN_TILES; ++tile) {
        const u32 at = own + tile * 16 * STRIDE;
        const Words4 top = read_shared(at), bottom = read_shared(at + 8 * STRIDE);
#pragma unroll
        for (int m = 0; m < MMAS; ++m) {
            u32 a0 = top.w[2 * m % 4], a2 = top.w[(2 * m + 1) % 4];
            u32 a1 = bottom.w[2 * m % 4], a3 = bottom.w[(2 * m + 1) % 4];
            if (IS_INT8) widened(top.w[m], a0, a2), widened(bottom.w[m], a1, a3);
#pragma unroll
            for (int nt = 0; nt < NT; ++nt)
                multiply_add(sums[tile][nt], a0, a1, a2, a3, x[nt][2 * m], x[nt][2 * m + 1]);
        }
    }
}

// What the thread needs of the weights beside the matrix: the same for all rows.
struct Own {
    float scales[IS_INT8 ? TURNS : 1][2];
};

// The item that a warp finishes in a turn, or one that is not there.
DEVICE int item_of(const State &st, int turn) {
    const int own = turn * WARPS + st.warp;
    return own < OWN_ITEMS ? own * CK + st.rank : ITEMS;
}

DEVICE int feature_of(const State &st, int item) {
    return (st.cluster * TILES + item / NT) * (IS_GATE ? 8 : 16) + st.r;
}

DEVICE Own read_own(const State &st, const Args &a) {
    Own own = {};
    if (!IS_INT8) return own;
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        const int item = item_of(st, turn), feature = feature_of(st, item);
        if (item >= ITEMS) continue;
        own.scales[turn][0] = a.scale[feature];
        own.scales[turn][1] = IS_GATE ? a.scale_other[feature] : a.scale[feature + 8];
    }
    return own;
}

// Lanes of neighbouring features swap one of their two rows: each then has a pair of one row.
DEVICE int row_of_pair(const State &st, int first_row, int item) {
    return first_row + item % NT * 8 + 2 * st.c + (st.r & 1);
}

typedef u32 Residual[HAS_RESIDUAL ? TURNS : 1][2];

DEVICE void read_residual(const State &st, const Args &a, int first_row, Residual &residual) {
    if (!HAS_RESIDUAL) return;
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        const int item = item_of(st, turn), row = row_of_pair(st, first_row, item);
        if (item >= ITEMS || row >= a.rows) continue;
        const u16 *from = a.out + row * a.out_stride + (feature_of(st, item) & ~1);
        residual[turn][0] = *(const u32 *)from, residual[turn][1] = *(const u32 *)(from + 8);
    }
}

DEVICE void put_pair(const State &st, const Args &a, int row, int feature, float v0, float v1, u32 residual) {
    const bool is_odd = st.r & 1;
    const float swapped = __shfl_xor_sync(FULL, is_odd ? v0 : v1, 4);
    float left = is_odd ? swapped : v0, right = is_odd ? v1 : swapped;
    if (HAS_RESIDUAL) {  // rounded as the plain step rounds
        left = low_of(residual) + rounded(left), right = high_of(residual) + rounded(right);
    }
    if (row < a.rows) *(u32 *)(a.out + row * a.out_stride + (feature & ~1)) = packed(left, right);
}

DEVICE void finish(const State &st, const Args &a, int first_row, int item, Float4 v, float left, float right,
                   const float (&scales)[2], const u32 (&residual)[2]) {
    const int feature = feature_of(st, item), row = row_of_pair(st, first_row, item);
    if (HAS_NORM) v.v[0] *= left, v.v[2] *= left, v.v[1] *= right, v.v[3] *= right;
    if (IS_INT8) v.v[0] *= scales[0], v.v[1] *= scales[0], v.v[2] *= scales[1], v.v[3] *= scales[1];
    if (IS_GATE) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float gate = rounded(v.v[i]), up = rounded(v.v[i + 2]);
            v.v[i] = rounded(gate / (1.f + __expf(-gate))) * up;
        }
    }
    put_pair(st, a, row, feature, v.v[0], v.v[1], residual[0]);
    if (!IS_GATE) put_pair(st, a, row, feature + 8, v.v[2], v.v[3], residual[1]);
}

// Sums of this block, in its shared memory. A warp has those of its inputs and tiles.
DEVICE void leave_sums(const State &st, const Sums &sums, float (&squares)[NT]) {
#pragma unroll
    for (int tile = 0; tile < OWN_TILES; ++tile)
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
            Float4 v;
#pragma unroll
            for (int i = 0; i < 4; ++i) v.v[i] = sums[tile][nt][i];
            st.sm->sums[st.warp][tile * NT + nt][st.lane] = v;
        }
    if (!HAS_NORM) return;
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
        squares[nt] += __shfl_xor_sync(FULL, squares[nt], 1);
        squares[nt] += __shfl_xor_sync(FULL, squares[nt], 2);
        if (st.c == 0) st.sm->squares[st.warp][nt * 8 + st.r] = squares[nt];
    }
}

DEVICE Float4 sum_of_warps(const State &st, int item) {
    const int tile = item / NT, first = tile / OWN_TILES * WK;
    Float4 v = {};
#pragma unroll
    for (int w = 0; w < WK; ++w) {
        const Float4 part = st.sm->sums[first + w][tile % OWN_TILES * NT + item % NT][st.lane];
#pragma unroll
        for (int i = 0; i < 4; ++i) v.v[i] += part.v[i];
    }
    return v;
}

// Roots of the rows n, n + 1 from COUNT parts of their sums of squares.
template <int COUNT> DEVICE void roots(const Args &a, const float (*parts)[NT * 8], int n, float &left, float &right) {
    left = 0.f, right = 0.f;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const Float2 part = *(const Float2 *)&parts[i][n];
        left += part.v[0], right += part.v[1];
    }
    left = rsqrtf(left * (1.f / K) + a.eps), right = rsqrtf(right * (1.f / K) + a.eps);
}

// To the block that owns each item, and the squares to all.
DEVICE void send_sums(const State &st, int box) {
#pragma unroll
    for (int first = 0; first < ITEMS; first += WARPS) {
        const int item = first + st.warp;
        if (item < ITEMS)
            write_to_block(shared_address(&st.sm->inbox[box][st.rank][item / CK][st.lane]), item % CK,
                           sum_of_warps(st, item));
    }
    if (!HAS_NORM) return;
    for (int i = st.tid; i < CK * NT * 8; i += THREADS) {
        const int row = i % (NT * 8);
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < WK; ++w) sum += st.sm->squares[w][row];
        write_to_block(shared_address(&st.sm->inbox_squares[box][st.rank][row]), i / (NT * 8), sum);
    }
}

DEVICE void finish_round(const State &st, const Args &a, int first_row, int box, const Own &own,
                         const Residual &residual) {
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        const int item = item_of(st, turn), n = item % NT * 8 + 2 * st.c;
        if (item >= ITEMS) continue;  // whole warps
        float left = 1.f, right = 1.f;
        Float4 v = {};
        if (CK == 1) {
            v = sum_of_warps(st, item);
            if (HAS_NORM) roots<WK>(a, st.sm->squares, n, left, right);
        } else {
#pragma unroll
            for (int i = 0; i < CK; ++i) {
                const Float4 part = st.sm->inbox[box][i][item / CK][st.lane];
#pragma unroll
                for (int j = 0; j < 4; ++j) v.v[j] += part.v[j];
            }
            if (HAS_NORM) roots<CK>(a, st.sm->inbox_squares[box], n, left, right);
        }
        finish(st, a, first_row, item, v, left, right, own.scales[IS_INT8 ? turn : 0],
               residual[HAS_RESIDUAL ? turn : 0]);
    }
}

DEVICE void await_weights(const State &st) {
    u32 tries = 0;
    while (!is_complete(st.barrier, 0)) still_waiting(tries);
}

DEVICE void run_rounds(const State &st, const Args &a, const Own &own) {
    Activations x;
    read_activations(st, a, 0, 0, x);
    int round = 0;
    for (int first_row = 0; first_row < a.rows; first_row += 8 * NT, ++round) {
        const int box = CK > 1 ? round & 1 : 0;
        Residual residual = {};
        read_residual(st, a, first_row, residual);
        Sums sums = {};
        float squares[NT] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step += AT_ONCE) {
            if (step > 0) read_activations(st, a, first_row, step, x);
            if (round == 0 && step == 0) await_weights(st);
#pragma unroll
            for (int s = 0; s < AT_ONCE; ++s) {  // later steps may still be on their way
                if (HAS_NORM) normalize(st, x[s], step + s, squares);
                multiply(st, x[s], step + s, sums);
            }
        }
        const int next_row = first_row + 8 * NT;
        if (next_row < a.rows) read_activations(st, a, next_row, 0, x);  // on its way while sums are made
        if (CK == 1 && round > 0) __syncthreads();  // the last round's sums have been read
        leave_sums(st, sums, squares);
        __syncthreads();
        if (CK > 1) {
            if (round == 0) wait_for_cluster();  // all its blocks have begun
            send_sums(st, box);
            arrive_in_cluster();
            wait_for_cluster();
        }
        finish_round(st, a, first_row, box, own, residual);
    }
}

DEVICE void run(const Args &a) {
    State st;
    st.tid = threadIdx.x, st.lane = st.tid % 32, st.warp = st.tid / 32;
    st.r = st.lane / 4, st.c = st.lane % 4, st.part = st.warp % WK, st.group = st.warp / WK;
    st.rank = CK > 1 ? (int)rank_in_cluster() : 0, st.cluster = blockIdx.x / CK;
    st.sm = (Shared *)shared_base();
    st.weights = shared_address(shared_base() + WEIGHTS_START);
    st.barrier = shared_address(&st.sm->barrier);
    let_next_kernel_start();
    if (CK > 1) arrive_in_cluster();
    if (st.tid == 0) {
        make_barrier(st.barrier);
        show_barriers_to_copies();
    }
    __syncthreads();
    fetch_weights(st, a);
    const Own own = read_own(st, a);
    wait_for_kernel_before();
    run_rounds(st, a, own);
}

#ifndef EMULATED
extern "C" __global__ void __cluster_dims__(CK, 1, 1) __launch_bounds__(THREADS, MIN_BLOCKS)
    batch_linear(const __grid_constant__ Args args) {
    run(args);
}
#endif
