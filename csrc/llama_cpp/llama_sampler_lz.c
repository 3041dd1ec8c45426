/* The LZ penalty as a sampler of llama.cpp: see the header.
 *
 * Nothing is remembered but the end of the text, as far as the penalty looks back. Where all candidates lie in the order of
 * their ids, as in front of a chain, their logits are written to where they are. Otherwise the penalties are computed in an
 * array of the vocabulary's size, of which only what the text's tokens name is ever touched, and looked up for each
 * candidate. */
#include "llama_sampler_lz.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    lzpenalty_options *options;
    int32_t n_vocab, context; /* newest tokens that matter */
    lzpenalty_workspace *ws;
    double *changes; /* [n_vocab] zeros, but during a call */
    llama_token *text;
    int64_t start, n, room; /* what stands before `start` doesn't count */
} lz_state;

static void free_state(lz_state *state)
{
    if (!state)
        return;
    lzpenalty_workspace_destroy(state->ws);
    free(state->changes);
    free(state->text);
    lzpenalty_options_destroy(state->options);
    free(state);
}

static lz_state *new_state(const lzpenalty_options *options, int32_t n_vocab)
{
    lz_state *state = (lz_state *)calloc(1, sizeof *state);
    if (!state)
        return NULL;
    state->options = lzpenalty_options_copy(options, n_vocab);
    state->n_vocab = n_vocab;
    state->ws = lzpenalty_workspace_create();
    state->changes = (double *)calloc((size_t)n_vocab, sizeof *state->changes);
    if (state->options && state->ws && state->changes && lzpenalty_context(state->options, &state->context) == LZPENALTY_OK)
        return state;
    free_state(state);
    return NULL;
}

/* Forgets what is older than the penalty looks back, when the room is used up; makes more only if that isn't enough. */
static int make_room(lz_state *state)
{
    if (state->n >= 2 * (int64_t)state->context) {
        const int64_t gone = state->n - state->context;
        memmove(state->text, state->text + gone, (size_t)state->context * sizeof *state->text);
        state->start = state->start > gone ? state->start - gone : 0;
        state->n = state->context;
    } else if (state->n == state->room) {
        const int64_t room = 2 * state->room + 1024;
        llama_token *grown = (llama_token *)realloc(state->text, (size_t)room * sizeof *grown);
        if (!grown)
            return 0;
        state->text = grown;
        state->room = room;
    }
    return 1;
}

static lz_state *state_of(const struct llama_sampler *smpl)
{
    return (lz_state *)smpl->ctx;
}

static const char *lz_name(const struct llama_sampler *smpl)
{
    (void)smpl;
    return "lz";
}

static void lz_accept(struct llama_sampler *smpl, llama_token token)
{
    lz_state *state = state_of(smpl);
    if (state->context > 0 && make_room(state))
        state->text[state->n++] = token;
}

/* ---- Candidates ------------------------------------------------------------------------------------------------------- */

/* Calls visit for every id whose logit a call may change, until it returns 0. Returns whether it never did. */
static int visit_ids(const lz_state *state, int (*visit)(const lz_state *, int32_t id, const llama_token_data_array *),
                     const llama_token_data_array *candidates)
{
    const lzpenalty_options *options = state->options;
    int64_t i = state->n > options->window ? state->n - options->window : 0;
    size_t m;
    int32_t k;
    for (i = i > state->start ? i : state->start; i < state->n; i++)
        if (state->text[i] >= 0 && state->text[i] < state->n_vocab && !visit(state, state->text[i], candidates))
            return 0;
    for (m = 0; m < options->release.n; m++)
        for (k = 0; k < options->release.mark[m].n; k++)
            if (!visit(state, options->release.mark[m].ids[k], candidates))
                return 0;
    return 1;
}

static int is_at_its_index(const lz_state *state, int32_t id, const llama_token_data_array *candidates)
{
    (void)state;
    return candidates->data[id].id == id;
}

static int clear_change(const lz_state *state, int32_t id, const llama_token_data_array *candidates)
{
    (void)candidates;
    state->changes[id] = 0.0;
    return 1;
}

static void lz_apply(struct llama_sampler *smpl, llama_token_data_array *candidates)
{
    lz_state *state = state_of(smpl);
    const lzpenalty_tensor text = lzpenalty_vector(state->text, LZPENALTY_INT32, state->n);
    lzpenalty_tensor logits;
    size_t i;
    if (state->n == state->start || candidates->size == 0)
        return;
    if (candidates->size == (size_t)state->n_vocab && visit_ids(state, is_at_its_index, candidates)) {
        logits = lzpenalty_vector(&candidates->data[0].logit, LZPENALTY_FLOAT32, state->n_vocab);
        logits.strides[0] = (int64_t)(sizeof(llama_token_data) / sizeof(float));
        lzpenalty_penalize(state->ws, state->options, &logits, &text, &state->start);
    } else {
        logits = lzpenalty_vector(state->changes, LZPENALTY_FLOAT64, state->n_vocab);
        lzpenalty_penalize(state->ws, state->options, &logits, &text, &state->start);
        for (i = 0; i < candidates->size; i++) {
            llama_token_data *candidate = &candidates->data[i];
            if (candidate->id >= 0 && candidate->id < state->n_vocab && state->changes[candidate->id] != 0.0)
                candidate->logit += (float)state->changes[candidate->id];
        }
        visit_ids(state, clear_change, candidates);
    }
    candidates->sorted = false;
}

/* ---- The interface ---------------------------------------------------------------------------------------------------- */

static void lz_reset(struct llama_sampler *smpl)
{
    lz_state *state = state_of(smpl);
    state->start = state->n = 0;
}

static void lz_free(struct llama_sampler *smpl)
{
    free_state(state_of(smpl));
}

static struct llama_sampler *lz_clone(const struct llama_sampler *smpl)
{
    const lz_state *state = state_of(smpl);
    struct llama_sampler *clone = llama_sampler_init_lz(state->options, state->n_vocab);
    int64_t i;
    for (i = 0; clone && i < state->n; i++) {
        if (i == state->start)
            llama_sampler_lz_mark(clone);
        lz_accept(clone, state->text[i]);
    }
    if (clone && i == state->start)
        llama_sampler_lz_mark(clone);
    return clone;
}

struct llama_sampler *llama_sampler_init_lz(const lzpenalty_options *options, int32_t n_vocab)
{
    /* What newer versions of llama.cpp have more stays NULL. */
    static struct llama_sampler_i interface = {
        .name = lz_name, .accept = lz_accept, .apply = lz_apply, .reset = lz_reset, .clone = lz_clone, .free = lz_free};
    const lzpenalty_options defaults = lzpenalty_options_default();
    lz_state *state = n_vocab > 0 ? new_state(options ? options : &defaults, n_vocab) : NULL;
    return state ? llama_sampler_init(&interface, state) : NULL;
}

void llama_sampler_lz_mark(struct llama_sampler *smpl)
{
    lz_state *state = state_of(smpl);
    state->start = state->n;
}
