/* Marks on the device: what lz/marks.h is on the CPU. A mark is its number of ids, followed by the ids. */
#ifndef LZPENALTY_CUDA_MARKS_CUH
#define LZPENALTY_CUDA_MARKS_CUH

#include "history.cuh"

/* The marks of a list: `at` becomes the place of each mark's ids, `size` their number. */
#define FOR_EACH_MARK(at, size, marks, list)                                                                                \
    ONE_AT_A_TIME                                                                                                           \
    for (int left = (marks).n, at = (marks).at + 1, size = 0; left > 0 && (size = (list)->id[at - 1], true);                \
         left--, at += size + 1)

/* Whether the first `size` ids of a mark end at recent[i]. */
static __device__ bool ends_mark(const cuda_ids *list, int at, int size, const int *recent, int n, int i)
{
    if (size > n - i)
        return false;
    ONE_AT_A_TIME
    for (int k = 0; k < size; k++)
        if (recent[i + k] != list->id[at + size - 1 - k])
            return false;
    return true;
}

/* The newest position in [0, to) of the n tokens at which any of the marks ends, else `to`. */
static __device__ int newest_mark(const cuda_marks &marks, const cuda_ids *list, const int *recent, int n, int to)
{
    __shared__ int newest;
    if (threadIdx.x == 0)
        newest = to;
    __syncthreads();
    FOR_EACH_MARK(at, size, marks, list)
    FOR_EACH (i, to)
        if (ends_mark(list, at, size, recent, n, i))
            atomicMin(&newest, i);
    __syncthreads();
    const int result = newest;
    __syncthreads(); /* or a thread could be here again already */
    return result;
}

/* Whether any of the marks stands among all of the row's tokens that count. */
static __device__ bool holds_mark(const cuda_marks &marks, const cuda_ids *list, const cuda_tokens &tokens, int64_t row)
{
    const int n = counting(tokens, row);
    int found = 0;
    FOR_EACH_MARK(at, size, marks, list)
    FOR_EACH (i, n - size + 1) {
        int k = 0;
        ONE_AT_A_TIME
        while (k < size && id_at(tokens, row, i + k) == list->id[at + size - 1 - k])
            k++;
        found |= k == size;
    }
    return __syncthreads_or(found);
}

/* The id of a mark that is due; -1 if one of its ids is not of the vocabulary. */
static __device__ int due_id(const cuda_ids *list, int at, int size, int vocab, const int *recent, int n)
{
    int begun = least(size - 1, n);
    ONE_AT_A_TIME
    for (int k = 0; k < size; k++)
        if (list->id[at + k] >= vocab)
            return -1;
    ONE_AT_A_TIME
    while (begun > 0 && !ends_mark(list, at, begun, recent, n, 0))
        begun--;
    return list->id[at + begun];
}

#endif
