// Resident passes, part 1: arguments.
//
// A pass takes one new position a row through a transformer as ONE resident kernel. Every block stays
// on its multiprocessor and owns the same share of the output features of each layer. Two things run
// beside each other:
//   - the weights: their order is known, so bulk copies bring the block's rows into shared memory up
//     to a layer ahead, whatever the activations are doing;
//   - the activations: what a block has computed it posts to a mailbox in device memory, 32 bits of
//     data and 32 bits of a stamp in one 64-bit letter; a reader reads until the stamp is right. So
//     there is no barrier, and a hand-over costs one trip to the L2 cache and back.
// The products run on the matrix units with the weights as rows and the batch as columns (of 8), so
// one row and eight cost about the same. A product is summed in one order, whatever the batch.
//
// Sizes are compiled in (-D): NCTA, NT (8 NT >= rows), IS_FEW (up to two sequences, whose rows are read
// one by one: less code, which ran faster), COPIES (of mailboxes), MOST_CODES (of a frame), LAYERS, DIM,
// HEADS, GROUPS, HEAD_DIM, INTER, NUM_LOGITS, IS_SLOW, HAS_QK_NORM, IS_INT8, FIXED and ROOM (bytes of
// shared memory beside and for weights).

constexpr int WARPS = 8, THREADS = 256;
constexpr int SHARE = HEADS / GROUPS;
constexpr int QKV = (HEADS + 2 * GROUPS) * HEAD_DIM;
constexpr float LOWEST = -1e30f;

// Addresses of one layer. Scales are of int8 weights.
struct Layer {
    const char *wqkv, *wo, *w1, *w3, *w2;
    const float *s_qkv, *s_o, *s_1, *s_3, *s_2;
    const u16 *attention_norm, *ffn_norm, *q_norm, *k_norm;
    u16 *keys, *values;
};

// How codes are drawn; a value for each slot where not told otherwise.
struct Draws {
    const long long *seeds, *steps;
    const float *temperature;
    const unsigned char *greedy;
    const float *top_p;
    const long long *top_k;
    const float *penalty;
    const long long *window, *recent;  // recent: [slots, codebooks, width], newest last
    const u16 *embeddings;             // [codes, DIM]
    long long *codes;                  // [batch, codebooks]
    long long first_draw;              // counter of the first residual codebook's first noise
    int codebooks, width;
};

struct Args {
    const Layer *layers;
    const u16 *x;                // [batch, DIM], x_stride apart; fast: [batch, 2, DIM]
    const u16 *head_norm;        // [DIM]
    const char *head;            // [NUM_LOGITS, DIM]
    u16 *logits;                 // slow: [batch, NUM_LOGITS], logits_stride apart
    u16 *x_out;                  // slow: hidden states behind the last layer, x_out_stride apart
    u64 *box_x, *box_squares, *box_qkv, *box_mixed, *box_mid, *box_mid_squares, *box_inner;
    u64 *box_part, *box_logits, *box_codes;  // mailboxes
    u32 *epoch;                  // counts the launches that used these mailboxes
    const float *rope;           // [positions, HEAD_DIM / 2, 2]
    const long long *slots;      // [batch]
    const long long *lengths;    // [slots]; slow
    long long x_stride, logits_stride, x_out_stride;
    long long slot_stride, head_stride;  // of keys and values, in elements
    Draws draws;                 // fast
    int batch, splits;           // splits: blocks that share the attention of a row's head group
    float eps;
};
