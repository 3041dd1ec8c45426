/* Decode attention: which thread reads what. */
#include <stdatomic.h>
#include <stdlib.h>

#include "../cpu/target.h"
#include "../cpu/threads.h"
#include "levels.h"

enum {
    PIECE_ROWS = 64,     /* queries that share keys, and go through them together; their outputs stay in a near cache */
    PIECE_ENTRIES = 512, /* the least that is worth a result of its own */
    MOST_PIECES = 512    /* about, if there are not more rows and heads than that */
};

/* Below so many multiplications, some ten microseconds, other threads come too late. */
static const double parallel_work = 3e5;

typedef struct {
    const cache_decode *decode;
    const cache_kernels *kernels;
    const cache_piece *pieces;
    atomic_int *missing; /* by the first piece of the same rows: how many are not computed yet */
    char *partials;      /* of pieces that are not alone */
    char *scratch;
    size_t partial_bytes, thread_bytes;
} decode_job;

/* Whoever computes the last piece of some rows has all of them. */
static void run_piece(void *argument, int64_t unit, int thread)
{
    const decode_job *job = argument;
    const cache_piece *piece = &job->pieces[unit];
    char *scratch = job->scratch + (size_t)thread * job->thread_bytes;
    if (piece->pieces == 1) {
        char *partial = scratch + job->thread_bytes - job->partial_bytes;
        job->kernels->attend_piece(job->decode, piece, partial, scratch);
        job->kernels->merge_pieces(job->decode, piece, partial, 0);
        return;
    }
    job->kernels->attend_piece(job->decode, piece, job->partials + (size_t)unit * job->partial_bytes, scratch);
    if (atomic_fetch_sub(&job->missing[piece->first], 1) == 1)
        job->kernels->merge_pieces(job->decode, piece, job->partials + (size_t)piece->first * job->partial_bytes,
                                   job->partial_bytes);
}

static int64_t at_least(int64_t x, int64_t least)
{
    return x > least ? x : least;
}

/* The rows of head `head` from `row` on, cut into pieces of `length` entries; one that may be empty if none sees anything.
 * Returns how many; writes them if `pieces` is not NULL, the first as number `first`. */
static int64_t cut(const cache_decode *decode, int64_t head, int64_t row, int64_t length, cache_piece *pieces, int64_t first)
{
    const int64_t group = decode->queries.heads / decode->heads, all = group * decode->queries.tokens;
    const int64_t rows = all - row < PIECE_ROWS ? all - row : PIECE_ROWS, start = decode->spans[head].first;
    const int64_t end = decode->spans[head].length - decode->queries.tokens + 1 + (row + rows - 1) / group;
    const int64_t count = at_least((end - start + length - 1) / length, 1);
    for (int64_t i = 0; pieces && i < count; i++) {
        const int64_t from = start + i * length, to = from + length < end ? from + length : end;
        pieces[first + i] = (cache_piece){head, row, rows, from, to, count, first};
    }
    return count;
}

int cache_attend(const cache_decode *decode)
{
    const int64_t heads = decode->queries.batch * decode->heads;
    const int64_t rows = decode->queries.heads / decode->heads * decode->queries.tokens;
    const int64_t most_rows = rows < PIECE_ROWS ? rows : PIECE_ROWS, turns = (rows + PIECE_ROWS - 1) / PIECE_ROWS;
    decode_job job = {.decode = decode, .kernels = cache_current_kernels()};
    double entries = 0;
    for (int64_t head = 0; head < heads; head++)
        entries += (double)at_least(decode->spans[head].length - decode->spans[head].first, 0);

    /* How it is cut is a matter of sizes: the number of threads changes no result. */
    const int64_t length = at_least((int64_t)(entries * (double)turns / MOST_PIECES), PIECE_ENTRIES);
    int64_t count = 0, cut_count = 0;
    for (int64_t head = 0; head < heads; head++) {
        for (int64_t row = 0; row < rows; row += PIECE_ROWS) {
            const int64_t pieces = cut(decode, head, row, length, NULL, 0);
            count += pieces;
            cut_count = pieces > 1 ? count : cut_count; /* those behind need no memory outside of their thread's */
        }
    }
    const double work = entries * (double)rows * (double)(decode->queries.size + decode->out.size);
    const int threads = cpu_threads_for(work < parallel_work ? 1 : decode->threads, count);

    job.partial_bytes = job.kernels->partial_bytes(decode, most_rows);
    job.thread_bytes = job.kernels->decode_thread_bytes(decode, most_rows) + job.partial_bytes;
    const size_t pieces_bytes = ((size_t)count * (sizeof(cache_piece) + sizeof(atomic_int)) + 63) & ~(size_t)63;
    const size_t partials_bytes = (size_t)cut_count * job.partial_bytes;
    if ((double)cut_count * (double)job.partial_bytes + (double)threads * (double)job.thread_bytes > 0x1p60)
        return -1;
    char *memory = malloc(64 + pieces_bytes + partials_bytes + (size_t)threads * job.thread_bytes);
    if (!memory)
        return -1;
    job.partials = (char *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    job.scratch = job.partials + partials_bytes;
    cache_piece *pieces = (cache_piece *)(void *)(job.scratch + (size_t)threads * job.thread_bytes);
    job.pieces = pieces;
    job.missing = (atomic_int *)(void *)(pieces + count);
    int64_t written = 0;
    for (int64_t head = 0; head < heads; head++) {
        for (int64_t row = 0; row < rows; row += PIECE_ROWS) {
            const int64_t added = cut(decode, head, row, length, pieces, written);
            atomic_init(&job.missing[written], (int)added);
            written += added;
        }
    }
    cpu_fork_join(threads, count, run_piece, &job);
    free(memory);
    return 0;
}
