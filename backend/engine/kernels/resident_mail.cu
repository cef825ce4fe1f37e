// Resident passes, part 3: activations, how they travel.

// Leave a letter in all copies of a box of so many letters.
DEVICE void post(u64 *box, int size, int place, u64 value) {
#pragma unroll
    for (int copy = 0; copy < COPIES; ++copy) write_letter(box + copy * size + place, value);
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

// Whether all lanes read the letters of a row together, then hand them on.
template <class S> DEVICE constexpr bool are_few() { return IS_FEW && S::AT_ONCE == S::STEPS; }

// Pairs 2 lane, 2 lane + 1 of each 64 in a row's boxes to the lanes that multiply them, through the
// place of the sums that come next. Columns of no row get the first row: nobody looks at them.
template <class S, int READS>
DEVICE void hand_on(const State &st, const Pair64 (&mail)[READS], int row, u32 (&x)[S::AT_ONCE][NT][2 * S::MMAS]) {
    constexpr int OF_STEP = S::STEP / 2, OF_LANE = 2 * S::MMAS;  // pairs
    u32 *room = (u32 *)st.sm->sums[st.buffer][st.warp];
    __syncwarp();  // the row before has been read
#pragma unroll
    for (int i = 0; i < READS; ++i) {
        const int place = 64 * i + 2 * st.lane, rest = place % OF_STEP;
        const Two pairs = {{(u32)mail[i].a, (u32)mail[i].b}};
        if (place < S::K / WARPS / 2)
            *(Two *)(room + place - rest + rest % 8 / 2 * OF_LANE + rest / 8 * 2) = pairs;
    }
    __syncwarp();
#pragma unroll
    for (int s = 0; s < S::AT_ONCE; ++s)
#pragma unroll
        for (int q = 0; q < OF_LANE / 4; ++q) {
            const Words4 four = *(const Words4 *)(room + s * OF_STEP + st.c * OF_LANE + 4 * q);
#pragma unroll
            for (int j = 0; j < 4; ++j)
                if (row == 0 || st.r == row) x[s][0][4 * q + j] = four.w[j];
        }
}

// Activations of few rows, one after another.
template <class S, bool NORM>
DEVICE void read_few_activations(const State &st, const u64 *box, const u64 *box_squares, u32 stamp,
                                 u32 (&x)[S::AT_ONCE][NT][2 * S::MMAS], float (&squares)[NT]) {
    constexpr int LETTERS = S::K / WARPS / 2, PARTS = S::K / 8 / WARPS, READS = (LETTERS + 63) / 64;
    static_assert(!NORM || PARTS <= 64 || !are_few<S>(), "sums of squares of a warp");
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
        hand_on<S>(st, mail, row, x);
        if (NORM) {
            float sum = __uint_as_float((u32)part.a) + __uint_as_float((u32)part.b);
#pragma unroll
            for (int distance = 1; distance < 32 && 2 * distance < PARTS; distance *= 2)
                sum += __shfl_xor_sync(FULL, sum, distance);
            sum = __uint_as_float(handed(__float_as_uint(sum), 0));
            if (st.r == row && st.c == 0) squares[0] = sum;
        }
    }
}

// Activations from a mailbox, whatever the number of rows.
template <class S, bool NORM> struct Mail {
    const u64 *box, *box_squares;
    u32 stamp;
    DEVICE_FUNCTION void operator()(const State &st, int first_step, u32 (&x)[S::AT_ONCE][NT][2 * S::MMAS],
                                    float (&squares)[NT]) const {
        const u64 *own = box + st.cta % COPIES * (NT * 8 * (S::K / 2));
        const u64 *own_squares = NORM ? box_squares + st.cta % COPIES * (NT * 8 * (S::K / 8)) : nullptr;
        if (are_few<S>()) read_few_activations<S, NORM>(st, own, own_squares, stamp, x, squares);
        else read_activations<S, NORM>(st, own, own_squares, stamp, first_step, x, squares);
    }
};

