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
    void (*raise)(const lz_row *, int32_t token, float nats);
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

/* Bits that the escalation adds to the token recent[dl - 1], which would go on with a loop: a text that has repeated itself
 * with period dl for L > max(n, dl) tokens, as no single quotation ever does, pays more with every turn. */
static float escalation_bits(const lz_penalty *p, const lz_match *matches, lz_match open, float literal)
{
    int32_t i = 0, turn = p->coder.buffer > open.distance ? p->coder.buffer : open.distance;
    if (p->escalation == 0 || open.length == 0)
        return 0;
    while (matches[i].distance != open.distance)
        i++;
    int32_t length = capped(matches[i].length, p->coder.window);
    return length > turn ? p->escalation * literal * ((float)length / (float)turn - 1) : 0;
}

/* What a row's penalties are computed from. */
typedef struct {
    int32_t n_matches, window;
    lz_match open;
    float literal; /* log2 V */
    float extra;   /* escalation_bits */
    float strength;
} lz_row_state;

/* The setting of the paper: every token of the window is charged, and s->gains holds what each distance is worth. */
static void charge_window(const lz_row *row, const lz_row_ops *ops, const lz_row_state *r, const float *log2, lz_scratch *s)
{
    int32_t before = -1, next = r->open.distance - 1;
    ops->subtract(row, s->recent, s->gains, r->window, r->strength, s->saved);
    for (int32_t i = 0; i < r->n_matches; i++) {
        int32_t k = s->matches[i].distance - 1;
        if (s->matches[i].length < r->open.length || s->recent[k] == before)
            continue; /* in a loop, nearer positions have charged the same token more */
        before = s->recent[k];
        float bits = smaller(r->literal, prolonging_bits(r->open, k + 1, log2));
        ops->lower(row, s->recent, k, r->literal - bits, r->strength, s->saved);
    }
    if (r->extra > 0) {
        int32_t nearest = find_token(s->recent, s->recent[next], 0, next);
        float bits = smaller(log2[nearest + 1], prolonging_bits(r->open, next + 1, log2));
        ops->lower(row, s->recent, next, r->literal - smaller(r->literal, bits) + r->extra, r->strength, s->saved);
    }
}

/* What a neutral token pays: the mean penalty of the window's tokens, one share for each position. Tokens that are not
 * penalised count as 0. In fixed point, so that no order of summation matters. */
static float mean_gain(const lz_coder *coder, const lz_row_state *r, int32_t n, const lz_scratch *s)
{
    const double unit = 1 << 24;
    int64_t sum = 0;
    for (int32_t i = 0; i < r->window; i++) {
        int32_t c = coder->min_match == 1 ? (int32_t)s->owner[i] : find_token(s->ids, s->recent[i], 0, n);
        if (c < n)
            sum += (int64_t)((double)s->gains[c] * unit);
    }
    return (float)((double)sum / unit / r->window);
}

/* Every other setting: the tokens that are charged are listed first. */
static void charge_listed(const lz_row *row, const lz_row_ops *ops, const lz_penalty *p, const lz_row_state *r,
                          const float *log2, lz_scratch *s)
{
    int32_t n =
        code_tokens(&p->coder, r->open, s->matches, r->n_matches, r->window, (int32_t)row->vocab, log2, r->literal, s);
    for (int32_t c = 0; c < n; c++)
        s->gains[c] = r->literal - s->bits[c];
    float mean = p->n_neutral > 0 ? mean_gain(&p->coder, r, n, s) : 0;
    if (r->extra > 0) {
        int32_t next = s->recent[r->open.distance - 1], c = find_token(s->ids, next, 0, n);
        s->gains[c] = (c < n ? s->gains[c] : 0) + r->extra;
        s->ids[c] = next;
        n += c == n;
    }
    for (int32_t i = 0; i < p->n_neutral; i++) {
        int32_t c = find_token(s->ids, p->neutral[i], 0, n);
        s->gains[c] = mean;
        s->ids[c] = p->neutral[i];
        n += c == n;
    }
    ops->subtract(row, s->ids, s->gains, n, r->strength, s->saved);
}

/* The share of the strength that a gate lets through: nothing up to gate_from tokens of evidence, all of it from gate_to. */
static float gate_share(const lz_penalty *p, int32_t length)
{
    float share = ((float)length - p->gate_from) / (p->gate_to - p->gate_from);
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

/* What gate and release ask. Fewer tokens of evidence than `least` make no difference, nor do more than `enough`. */
static lz_circling circling_of(const lz_penalty *p, const lz_scratch *s, int32_t window)
{
    const int32_t wanted = p->release.n > 0 ? p->release_after : 1;
    const int32_t open = p->gate_to < (float)LZ_MOST ? (int32_t)ceilf(p->gate_to) : LZ_MOST;
    const int32_t shut = p->gate_from < (float)LZ_MOST ? (int32_t)p->gate_from + 1 : LZ_MOST;
    const int32_t least = p->gate_to > 0 && (p->release.n == 0 || shut < wanted) ? shut : wanted;
    return find_circling(s, window, LZ_GRAM, least, wanted, wanted > open ? wanted : open);
}

/* What is due of each mark gains with every token since the text began to circle, until one of the marks has been written.
 */
static void release(const lz_row *row, const lz_row_ops *ops, const lz_penalty *p, const lz_scratch *s, int32_t n,
                    int32_t steps)
{
    int32_t due[LZ_MOST_MARKS], n_due = 0;
    float nats = smaller(LZ_MOST_RELEASE, p->release_rate * (float)steps);
    if (steps == 0 || newest_mark(&p->release, s->recent, n, steps) < steps)
        return;
    for (int32_t i = 0; i < p->release.n; i++) {
        const lz_mark *mark = &p->release.mark[i];
        if (!is_within(mark, row->vocab))
            continue;
        const int32_t id = due_id(mark, s->recent, n);
        int32_t k = 0;
        while (k < n_due && due[k] != id)
            k++;
        due[k] = id;
        n_due += k == n_due;
    }
    for (int32_t i = 0; i < n_due; i++)
        ops->raise(row, due[i], nats);
}

static void penalize(const lz_penalty *p, const lz_logits *logits, const lz_tokens *tokens, lz_workspace *ws)
{
    const lz_coder *coder = &p->coder;
    const lz_row_ops *ops = row_ops[logits->dtype];
    lz_sizes sizes = lz_penalty_sizes(p, tokens->length);
    lz_scratch scratch, *s = &scratch;
    int whole_window = coder->cost == LZ_LZSS && coder->min_match == 1 && coder->min_count == 1 && p->n_neutral == 0;
    float literal = (float)log2((double)logits->vocab);

    lz_lay_out(ws->blocks[LZ_SCRATCH].memory, sizes, s);
    if (whole_window)
        for (int32_t d = 1; d <= sizes.window; d++)
            s->gains[d - 1] = literal - smaller(literal, ws->log2[d]);

    for (int64_t b = 0; b < logits->rows; b++) {
        if (p->until.n > 0 && holds_mark(&p->until, tokens, b))
            continue;
        int32_t n = read_recent(tokens, b, sizes.context, s->recent);
        if (p->reset.n > 0)
            n = newest_mark(&p->reset, s->recent, n, n);
        lz_row row = row_of(logits, b);
        lz_row_state r = {.window = capped(n, sizes.window), .literal = literal, .strength = p->strength};
        lz_circling circling = {0, 0};
        if (p->gate_to > 0 || p->release.n > 0)
            circling = circling_of(p, s, r.window);
        if (p->horizon > 0)
            r.strength = 2 * p->strength * ((float)count_repeated(s, n, coder->window, p->horizon) / (float)p->horizon);
        if (p->gate_to > 0)
            r.strength *= gate_share(p, circling.length);
        if (r.window > 0 && r.strength != 0) {
            r.n_matches = find_matches(s->recent, n, r.window, s->matches);
            r.open = open_match(s->matches, r.n_matches, coder->buffer);
            r.extra = escalation_bits(p, s->matches, r.open, literal);
            if (whole_window)
                charge_window(&row, ops, &r, ws->log2, s);
            else
                charge_listed(&row, ops, p, &r, ws->log2, s);
        }
        if (p->release.n > 0)
            release(&row, ops, p, s, n, circling.steps);
    }
}

/* D of what may come after n tokens: how many of s->ids and s->bits. */
static int32_t code_next(const lz_coder *coder, int32_t n, lz_sizes sizes, int32_t vocab, const float *log2, float literal,
                         lz_scratch *s)
{
    int32_t window = capped(n, sizes.window);
    if (window == 0)
        return 0;
    int32_t n_matches = find_matches(s->recent, n, window, s->matches);
    lz_match open = open_match(s->matches, n_matches, coder->buffer);
    return code_tokens(coder, open, s->matches, n_matches, window, vocab, log2, literal, s);
}

static int32_t deltas(const lz_coder *coder, int32_t vocab, const lz_tokens *tokens, lz_workspace *ws, int32_t **ids,
                      float **bits)
{
    lz_sizes sizes = lz_penalty_sizes(&(lz_penalty){.coder = *coder}, tokens->length);
    lz_scratch s;
    lz_lay_out(ws->blocks[LZ_SCRATCH].memory, sizes, &s);
    *ids = s.ids;
    *bits = s.bits;
    float literal = (float)log2((double)vocab);
    int32_t n = read_recent(tokens, 0, sizes.context, s.recent), listed = 0;
    int32_t distinct = code_next(coder, n, sizes, vocab, ws->log2, literal, &s);
    for (int32_t c = 0; c < distinct; c++) {
        s.ids[listed] = s.ids[c];
        s.bits[listed] = s.bits[c];
        listed += s.bits[c] < literal;
    }
    return listed;
}

static void token_bits(const lz_coder *coder, int32_t vocab, const lz_tokens *tokens, lz_workspace *ws, double *bits)
{
    lz_sizes sizes = lz_penalty_sizes(&(lz_penalty){.coder = *coder}, tokens->length);
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
        int32_t distinct = code_next(coder, n, sizes, vocab, ws->log2, literal, &s);
        int32_t c = find_token(s.ids, token, 0, distinct);
        bits[i] = c < distinct && s.bits[c] < literal ? s.bits[c] : log2((double)vocab);
    }
}
