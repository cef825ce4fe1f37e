// Resident passes, part 7: attention over the codebooks of a frame.

#if !IS_SLOW
constexpr int TURNS = MOST_CODES / AT_A_TIME;

// The position of a frame that is computed, and whether the one behind it is as well.
struct Place { int position; bool is_pair; };

// Keys and values of the positions in front, of one row and head group.
struct Held { Words4 k[TURNS], v[TURNS]; };

DEVICE long long cache_of(const State &st, const Args &a, int unit) {
    return unit / GROUPS * a.slot_stride + unit % GROUPS * a.head_stride + st.lane % VECTOR * LD;
}

DEVICE Held hold(const State &st, const Args &a, const Layer &layer, const Place &place, int unit) {
    Held r = {};
    const long long cache = cache_of(st, a, unit);
#pragma unroll
    for (int i = 0; i < TURNS; ++i) {
        const int t = i * AT_A_TIME + st.lane / VECTOR;
        r.k[i] = read_cached(layer.keys + cache + t * HEAD_DIM, t < place.position);
        r.v[i] = read_cached(layer.values + cache + t * HEAD_DIM, t < place.position);
    }
    return r;
}

// They are in a cache and not read ahead.
struct Ahead {};
DEVICE Ahead read_ahead(const State &, const Args &, const Layer &, const Place &) { return {}; }

// Attention of a head group's queries over positions up to ``at``, normalized; all lanes of a
// dimension get it.
DEVICE void attend_to(const State &st, const float (&q)[SHARE][LD], const Held &held, int at,
                      float (&out)[SHARE][LD]) {
    const int sub = st.lane / VECTOR;
    float scores[SHARE][TURNS], best[SHARE], weight[SHARE];
#pragma unroll
    for (int h = 0; h < SHARE; ++h) {
        best[h] = LOWEST, weight[h] = 0.f;
#pragma unroll
        for (int j = 0; j < LD; ++j) out[h][j] = 0.f;
    }
#pragma unroll
    for (int i = 0; i < TURNS; ++i) {
        if (i * AT_A_TIME > at) continue;  // whole warps
#pragma unroll
        for (int h = 0; h < SHARE; ++h) {
            const float s = score(q[h], held.k[i]);
            scores[h][i] = i * AT_A_TIME + sub <= at ? s : LOWEST;
            best[h] = fmaxf(best[h], scores[h][i]);
        }
    }
#pragma unroll
    for (int distance = VECTOR; distance < 32; distance *= 2)
#pragma unroll
        for (int h = 0; h < SHARE; ++h) best[h] = fmaxf(best[h], __shfl_xor_sync(FULL, best[h], distance));
#pragma unroll
    for (int i = 0; i < TURNS; ++i) {
        if (i * AT_A_TIME > at) continue;
#pragma unroll
        for (int h = 0; h < SHARE; ++h) {
            const float p = __expf(scores[h][i] - best[h]);  // 0 where there is no position
            weight[h] += p;
#pragma unroll
            for (int j = 0; j < LD / 2; ++j) {
                out[h][2 * j] += p * low_of(held.v[i].w[j]);
                out[h][2 * j + 1] += p * high_of(held.v[i].w[j]);
            }
        }
    }
#pragma unroll
    for (int distance = VECTOR; distance < 32; distance *= 2)
#pragma unroll
        for (int h = 0; h < SHARE; ++h) {
            weight[h] += __shfl_xor_sync(FULL, weight[h], distance);
#pragma unroll
            for (int j = 0; j < LD; ++j) out[h][j] += __shfl_xor_sync(FULL, out[h][j], distance);
        }
#pragma unroll
    for (int h = 0; h < SHARE; ++h) {
        const float share = quotient(1.f, weight[h]);
#pragma unroll
        for (int j = 0; j < LD; ++j) out[h][j] *= share;
    }
}

// One row's new position: read its vectors, attend. The new key and value are given back.
DEVICE void attend_row(const State &st, const Args &a, u32 stamp, int group, int row, int at, Held &held,
                       float (&out)[SHARE][LD], Words4 &k_new, Words4 &v_new) {
    const int sub = st.lane / VECTOR, d0 = st.lane % VECTOR * LD;
    const Angles angles = read_angles(a, at, d0);
    const u64 *box = qkv_of(st, a, row) + d0 / 2;
    const u64 *boxes[SHARE + 2];
#pragma unroll
    for (int h = 0; h < SHARE; ++h) boxes[h] = box + (group * SHARE + h) * (HEAD_DIM / 2);
    boxes[SHARE] = box + (HEADS + group) * (HEAD_DIM / 2);
    boxes[SHARE + 1] = box + (HEADS + GROUPS + group) * (HEAD_DIM / 2);
    float mine[SHARE + 2][LD], q[SHARE][LD];  // the new key and value behind the queries
    read_vectors<SHARE + 2>(boxes, stamp, mine);
#pragma unroll
    for (int v = 0; v <= SHARE; ++v) turn(mine[v], {}, angles, a.eps);
    k_new = packed_vector(mine[SHARE]), v_new = packed_vector(mine[SHARE + 1]);
#pragma unroll
    for (int i = 0; i < TURNS; ++i)
        if (i * AT_A_TIME + sub == at) held.k[i] = k_new, held.v[i] = v_new;
#pragma unroll
    for (int h = 0; h < SHARE; ++h)
#pragma unroll
        for (int j = 0; j < LD; ++j) q[h][j] = mine[h][j] * rsqrtf((float)HEAD_DIM);
    attend_to(st, q, held, at, out);
}

// Where there is room for keys and values in shared memory, and a warp's head group is just what it
// multiplies next: then each block attends for itself, and nothing is handed over.
constexpr int IN_USE = QKV_ROOM + OUT_ROOM + GATE_ROOM + DOWN_ROOM;
constexpr bool CAN_ATTEND_ALONE = are_few<OutShape>() && IS_AMPLE && GROUPS == WARPS && HEAD_DIM % OutShape::STEP == 0;
constexpr int ROOM_FOR = CAN_ATTEND_ALONE ? (ROOM - IN_USE) / (LAYERS * GROUPS * HEAD_DIM * 4) : 0;
constexpr int KEPT = ROOM_FOR < MOST_CODES ? ROOM_FOR : MOST_CODES;  // positions

DEVICE bool attends_alone(const Args &a) { return KEPT > 0 && a.batch == 1 && a.draws.codebooks <= KEPT + 1; }

// Key, then value of the warp's head group.
DEVICE u16 *kept(const State &st, int idx, int position) {
    u16 *all = (u16 *)(shared_base() + WEIGHTS_START + IN_USE);
    return all + ((idx * KEPT + position) * GROUPS + st.warp) * (2 * HEAD_DIM) + st.lane % VECTOR * LD;
}

// What the output layer reads: the mail, or what the warp itself makes of queries, keys and values.
struct Mixed {
    const Args &a;
    const Place &place;
    int idx;
    u32 stamp;
    DEVICE_FUNCTION void operator()(const State &st, int first_step,
                                    u32 (&x)[OutShape::AT_ONCE][NT][2 * OutShape::MMAS],
                                    float (&squares)[NT]) const {
        if (!attends_alone(a)) {
            const Mail<OutShape, false> mail = {a.box_mixed, nullptr, stamp + 2};
            mail(st, first_step, x, squares);
            return;
        }
        const int sub = st.lane / VECTOR;
        Held held;
#pragma unroll
        for (int i = 0; i < TURNS; ++i) {
            const int t = i * AT_A_TIME + sub;
            held.k[i] = read_cached(kept(st, idx, t), t < place.position);
            held.v[i] = read_cached(kept(st, idx, t) + HEAD_DIM, t < place.position);
        }
        for (int row = 0; row <= (int)place.is_pair; ++row) {
            const int at = place.position + row;
            float out[SHARE][LD];
            Words4 k_new, v_new;
            attend_row(st, a, stamp, st.warp, row, at, held, out, k_new, v_new);
            if (sub == 0 && at < KEPT)
                *(Words4 *)kept(st, idx, at) = k_new, *(Words4 *)(kept(st, idx, at) + HEAD_DIM) = v_new;
            hand_on(st, out, row, x);
        }
        __syncwarp();  // the same warp reads them in the next pass
    }
    // Values of a head group to the lanes that multiply them.
    static DEVICE_FUNCTION void hand_on(const State &st, const float (&out)[SHARE][LD], int row,
                                        u32 (&x)[OutShape::AT_ONCE][NT][2 * OutShape::MMAS]) {
        u32 pairs[SHARE][LD / 2];
#pragma unroll
        for (int h = 0; h < SHARE; ++h)
#pragma unroll
            for (int j = 0; j < LD / 2; ++j) pairs[h][j] = packed(out[h][2 * j], out[h][2 * j + 1]);
#pragma unroll
        for (int s = 0; s < OutShape::AT_ONCE; ++s)
#pragma unroll
            for (int j = 0; j < 2 * OutShape::MMAS; ++j) {
                constexpr int LANES = OutShape::PER_LANE / LD;
                const int h = s * OutShape::STEP / HEAD_DIM % SHARE, d = s * OutShape::STEP % HEAD_DIM;
                const u32 pair = handed(pairs[h][j % (LD / 2)], d / LD + st.c * LANES + j / (LD / 2));
                if (row == 0 || st.r == row) x[s][0][j] = pair;
            }
    }
};

DEVICE Mixed mixed_of(const Args &a, const Place &place, int idx, u32 stamp) { return {a, place, idx, stamp}; }

// Attention over the codebook positions of a frame: a warp a row and head group.
DEVICE void attend(State &st, const Args &a, const Layer &layer, u32 stamp, const Place &place, const Ahead &) {
    const int sub = st.lane / VECTOR, d0 = st.lane % VECTOR * LD;
    const int new_rows = place.is_pair ? 2 : 1, units = a.batch * GROUPS;
    if (attends_alone(a)) return;
    for (int unit = st.warp * NCTA + st.cta; unit < units; unit += NCTA * WARPS) {
        Held held = hold(st, a, layer, place, unit);
        for (int i = 0; i < new_rows; ++i) {
            const int row = unit / GROUPS * new_rows + i, at = place.position + i;
            const long long cache = cache_of(st, a, unit) + at * HEAD_DIM;
            float out[SHARE][LD];
            Words4 k_new, v_new;
            attend_row(st, a, stamp, unit % GROUPS, row, at, held, out, k_new, v_new);
            if (sub == 0) *(Words4 *)(layer.keys + cache) = k_new, *(Words4 *)(layer.values + cache) = v_new;
            __syncwarp();  // the same warp reads them in the next pass
#pragma unroll
            for (int h = 0; h < SHARE; ++h)
#pragma unroll
                for (int j = 0; j < LD / 2; ++j)
                    if (sub == h % AT_A_TIME)
                        post(a.box_mixed, MIXED,
                             row * (HEADS * HEAD_DIM / 2) +
                                 letter_place(((unit % GROUPS * SHARE + h) * HEAD_DIM + d0) / 2 + j,
                                              OutShape::LETTERS),
                             letter(packed(out[h][2 * j], out[h][2 * j + 1]), stamp + 2));
        }
    }
}
#endif

