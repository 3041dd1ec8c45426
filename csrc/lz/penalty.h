/* The LZ penalty: logits[a] -= strength * (log2 V - D(a)). Included once a level.
 *
 * Only tokens of the window have a penalty, so a row costs a search of the window and as many scattered writes as it has
 * tokens; nothing of the vocabulary's size is ever allocated or scanned. */

typedef struct {
    void *logits;
    uint32_t vocab;
    int64_t stride;
} lz_row;

typedef struct {
    void (*subtract)(const lz_row *, const int32_t *tokens, const float *gains, int32_t n, float strength, void *saved);
    void (*lower)(const lz_row *, const int32_t *tokens, int32_t k, float gain, float strength, const void *saved);
    void (*change)(const lz_row *, const int32_t *tokens, int32_t k, double nats, const void *saved);
} lz_row_ops;

#define ROW(name) float32_##name
#define NUMBER float
#define LOAD(x) (x)
#define STORE(x) (x)
#include "logits_row.h"

#define ROW(name) float16_##name
#define NUMBER uint16_t
#define LOAD(x) f16_to_float(x)
#define STORE(x) float_to_f16(x)
#include "logits_row.h"

#define ROW(name) bfloat16_##name
#define NUMBER uint16_t
#define LOAD(x) bf16_to_float(x)
#define STORE(x) float_to_bf16(x)
#include "logits_row.h"

#define ROW(name) float64_##name
#define NUMBER double
#define LOAD(x) (x)
#define STORE(x) (x)
#include "logits_row.h"

static const lz_row_ops *const row_ops[] = {&float32_ops, &float16_ops, &bfloat16_ops, &float64_ops};
static const size_t logit_size[] = {4, 2, 2, 8};

static lz_row row_of(const lz_logits *logits, int64_t b)
{
    char *first = (char *)logits->data + b * logits->row_stride * (int64_t)logit_size[logits->dtype];
    return (lz_row){first, (uint32_t)logits->vocab, logits->column_stride};
}

/* What a row's penalties are computed from. */
typedef struct {
    int32_t n_matches, window;
    lz_match open;
    float literal; /* log2 V */
    float strength;
} lz_row_state;

/* The setting of the paper: every token of the window is charged, and s->gains holds what each distance is worth. */
static void charge_window(const lz_row *row, const lz_row_ops *ops, const lz_row_state *r, const float *log2, lz_scratch *s)
{
    int32_t before = -1;
    ops->subtract(row, s->recent, s->gains, r->window, r->strength, s->saved);
    for (int32_t i = 0; i < r->n_matches; i++) {
        int32_t k = s->matches[i].distance - 1;
        if (s->matches[i].length < r->open.length || s->recent[k] == before)
            continue; /* in a loop, nearer positions have charged the same token more */
        before = s->recent[k];
        float bits = smaller(r->literal, prolonging_bits(r->open.length, r->open.distance, k + 1, log2));
        ops->lower(row, s->recent, k, r->literal - bits, r->strength, s->saved);
    }
}

/* What the gate and a release after so much evidence ask; after 0 there is none. Fewer tokens of evidence than `least` make
 * no difference, nor do more than `enough`. */
static lz_circling circling_of(lz_range gate, int32_t after, const lz_scratch *s, int32_t window)
{
    const int32_t wanted = after > 0 ? after : 1;
    const int32_t open = gate.to < (float)LZ_MOST ? (int32_t)ceilf(gate.to) : LZ_MOST;
    const int32_t shut = gate.from < (float)LZ_MOST ? (int32_t)gate.from + 1 : LZ_MOST;
    const int32_t least = gate.to > 0 && (after == 0 || shut < wanted) ? shut : wanted;
    return find_circling(s, window, LZ_GRAM, least, wanted, wanted > open ? wanted : open);
}

/* Adds what is due of each mark to the n tokens that are charged, in s->ids and s->gains. due[] says where each is; the
 * same id may be due of several. Returns how many tokens there are then. */
static int32_t list_due(const lz_marks *marks, int32_t n_recent, int32_t n, lz_scratch *s, int32_t *due)
{
    for (int32_t m = 0; m < marks->n; m++) {
        const int32_t id = due_id(&marks->mark[m], s->recent, n_recent);
        due[m] = find_token(s->ids, id, 0, n);
        if (due[m] == n) {
            s->ids[n] = id;
            s->gains[n++] = 0;
        }
    }
    return n;
}

/* Every other setting: the tokens whose logits change are listed first. Those that are due gain so many nats, if any. */
static void charge_listed(const lz_row *row, const lz_row_ops *ops, const lz_penalty *p, const lz_row_state *r,
                          int32_t n_recent, float nats, const float *log2, lz_scratch *s)
{
    int32_t due[LZ_MOST_MARKS], n = 0;
    if (r->strength != 0)
        n = code_tokens(p, r->open, s->matches, r->n_matches, r->window, (int32_t)row->vocab, log2, r->literal, s);
    for (int32_t c = 0; c < n; c++)
        s->gains[c] = r->literal - s->bits[c];
    if (nats >= 0)
        n = list_due(&p->release, n_recent, n, s, due);
    ops->subtract(row, s->ids, s->gains, n, r->strength, s->saved);
    for (int32_t m = 0; nats >= 0 && m < p->release.n; m++)
        ops->change(row, s->ids, due[m], (double)nats - (double)(r->strength * s->gains[due[m]]), s->saved);
}

static void penalize_row(const lz_penalty *p, const lz_row *row, const lz_row_ops *ops, int is_open, int32_t n,
                         lz_row_state *r, const float *log2, lz_scratch *s, int whole_window)
{
    const lz_range gate = gate_of(p, is_open);
    float nats = -1; /* nothing is due */
    if (gate.to > 0 || is_open) {
        const lz_circling circling = circling_of(gate, is_open ? p->release_after : 0, s, r->window);
        if (gate.to > 0)
            r->strength *= gate_share(gate, circling.length);
        if (circling.steps > 0 && is_open)
            nats = release_nats(p, circling.steps);
    }
    if (r->strength != 0) {
        r->n_matches = find_matches(s->recent, n, r->window, s->matches);
        r->open = open_match(s->matches, r->n_matches, p->buffer);
    }
    if (whole_window && r->strength != 0)
        charge_window(row, ops, r, log2, s);
    else if (r->strength != 0 || nats >= 0)
        charge_listed(row, ops, p, r, n, nats, log2, s);
}

static void penalize(const lz_penalty *p, const lz_logits *logits, const lz_tokens *tokens, lz_workspace *ws)
{
    lz_sizes sizes = lz_penalty_sizes(p, tokens->length);
    lz_scratch scratch, *s = &scratch;
    const int whole_window = p->cost == LZ_LZSS && p->min_match == 1 && p->release.n == 0;
    float literal = (float)log2((double)logits->vocab);

    lz_lay_out(ws->blocks[LZ_SCRATCH].memory, sizes, s);
    if (whole_window)
        for (int32_t d = 1; d <= sizes.window; d++)
            s->gains[d - 1] = literal - smaller(literal, ws->log2[d]);

    for (int64_t b = 0; b < logits->rows; b++) {
        const int64_t start = start_of(tokens, b);
        if (start == tokens->length)
            continue; /* the text may have no memory */
        const row_text text = {tokens, b};
        const int64_t marked = marked_length(p, text, tokens->length);
        if (is_skipped(p, text, marked))
            continue;
        const lz_section section = last_section(p, text, start, marked);
        const int32_t n = read_since(tokens, b, section.begin, sizes.context, s->recent);
        const lz_row row = row_of(logits, b);
        lz_row_state r = {.window = capped(n, sizes.window), .literal = literal, .strength = p->strength};
        if (r.window > 0)
            penalize_row(p, &row, row_ops[logits->dtype], section.is_open, n, &r, ws->log2, s, whole_window);
    }
}

/* D of what may come after n tokens: how many of s->ids and s->bits. */
static int32_t code_next(const lz_penalty *p, int32_t n, lz_sizes sizes, int32_t vocab, const float *log2, float literal,
                         lz_scratch *s)
{
    int32_t window = capped(n, sizes.window);
    if (window == 0)
        return 0;
    int32_t n_matches = find_matches(s->recent, n, window, s->matches);
    lz_match open = open_match(s->matches, n_matches, p->buffer);
    return code_tokens(p, open, s->matches, n_matches, window, vocab, log2, literal, s);
}

static int32_t deltas(const lz_penalty *p, int32_t vocab, const lz_tokens *tokens, lz_workspace *ws, int32_t **ids,
                      float **bits)
{
    lz_sizes sizes = lz_penalty_sizes(p, tokens->length);
    lz_scratch s;
    lz_lay_out(ws->blocks[LZ_SCRATCH].memory, sizes, &s);
    *ids = s.ids;
    *bits = s.bits;
    float literal = (float)log2((double)vocab);
    int32_t n = read_recent(tokens, 0, sizes.context, s.recent), listed = 0;
    int32_t distinct = code_next(p, n, sizes, vocab, ws->log2, literal, &s);
    for (int32_t c = 0; c < distinct; c++) {
        s.ids[listed] = s.ids[c];
        s.bits[listed] = s.bits[c];
        listed += s.bits[c] < literal;
    }
    return listed;
}

static void token_bits(const lz_penalty *p, int32_t vocab, const lz_tokens *tokens, lz_workspace *ws, double *bits)
{
    lz_sizes sizes = lz_penalty_sizes(p, tokens->length);
    lz_scratch s;
    lz_lay_out(ws->blocks[LZ_SCRATCH].memory, sizes, &s);
    float literal = (float)log2((double)vocab);
    for (int64_t i = 0; i < tokens->length; i++) {
        lz_tokens before = *tokens, up_to = *tokens;
        int32_t token;
        before.length = i;
        up_to.length = i + 1;
        read_recent(&up_to, 0, 1, &token);
        int32_t n = read_recent(&before, 0, sizes.context, s.recent);
        int32_t distinct = code_next(p, n, sizes, vocab, ws->log2, literal, &s);
        int32_t c = find_token(s.ids, token, 0, distinct);
        bits[i] = c < distinct && s.bits[c] < literal ? s.bits[c] : log2((double)vocab);
    }
}
