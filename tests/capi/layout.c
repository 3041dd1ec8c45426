/* The layouts of the public structs, one line each: "struct NAME SIZE", then "NAME.FIELD OFFSET SIZE". */
#include <lzpenalty.h>
#include <stdio.h>

#define STRUCT(type) printf("struct %s %zu\n", #type, sizeof(type))
#define FIELD(type, field) printf("%s.%s %zu %zu\n", #type, #field, offsetof(type, field), sizeof(((type *)0)->field))

int main(void)
{
    STRUCT(lzpenalty_tensor);
    FIELD(lzpenalty_tensor, data);
    FIELD(lzpenalty_tensor, dtype);
    FIELD(lzpenalty_tensor, dims);
    FIELD(lzpenalty_tensor, shape);
    FIELD(lzpenalty_tensor, strides);
    STRUCT(lzpenalty_mark);
    FIELD(lzpenalty_mark, n);
    FIELD(lzpenalty_mark, ids);
    STRUCT(lzpenalty_marks);
    FIELD(lzpenalty_marks, mark);
    FIELD(lzpenalty_marks, n);
    STRUCT(lzpenalty_range);
    FIELD(lzpenalty_range, from);
    FIELD(lzpenalty_range, to);
    STRUCT(lzpenalty_options);
    FIELD(lzpenalty_options, size);
    FIELD(lzpenalty_options, strength);
    FIELD(lzpenalty_options, window);
    FIELD(lzpenalty_options, buffer);
    FIELD(lzpenalty_options, cost);
    FIELD(lzpenalty_options, min_match);
    FIELD(lzpenalty_options, gate);
    FIELD(lzpenalty_options, release_rate);
    FIELD(lzpenalty_options, release_after);
    FIELD(lzpenalty_options, release);
    FIELD(lzpenalty_options, open);
    FIELD(lzpenalty_options, section_gate);
    FIELD(lzpenalty_options, skip);
    FIELD(lzpenalty_options, resume);
    STRUCT(lzpenalty_dry_options);
    FIELD(lzpenalty_dry_options, size);
    FIELD(lzpenalty_dry_options, multiplier);
    FIELD(lzpenalty_dry_options, base);
    FIELD(lzpenalty_dry_options, allowed_length);
    FIELD(lzpenalty_dry_options, window);
    FIELD(lzpenalty_dry_options, sequence_breakers);
    FIELD(lzpenalty_dry_options, n_sequence_breakers);
    FIELD(lzpenalty_dry_options, reserved);
    STRUCT(lzpenalty_phrase);
    FIELD(lzpenalty_phrase, source);
    FIELD(lzpenalty_phrase, length);
    STRUCT(lzpenalty_loop);
    FIELD(lzpenalty_loop, period);
    FIELD(lzpenalty_loop, start);
    FIELD(lzpenalty_loop, length);
    STRUCT(lzpenalty_loop_options);
    FIELD(lzpenalty_loop_options, size);
    FIELD(lzpenalty_loop_options, min_repeats);
    FIELD(lzpenalty_loop_options, max_period);
    FIELD(lzpenalty_loop_options, tolerance);
    FIELD(lzpenalty_loop_options, reserved);
    STRUCT(lzpenalty_score_options);
    FIELD(lzpenalty_score_options, size);
    FIELD(lzpenalty_score_options, scale);
    FIELD(lzpenalty_score_options, kernel);
    FIELD(lzpenalty_score_options, aggregation);
    FIELD(lzpenalty_score_options, threads);
    STRUCT(lzpenalty_attend_options);
    FIELD(lzpenalty_attend_options, size);
    FIELD(lzpenalty_attend_options, lengths);
    FIELD(lzpenalty_attend_options, starts);
    FIELD(lzpenalty_attend_options, pads);
    FIELD(lzpenalty_attend_options, scale);
    FIELD(lzpenalty_attend_options, softcap);
    FIELD(lzpenalty_attend_options, threads);
    FIELD(lzpenalty_attend_options, reserved);
    FIELD(lzpenalty_attend_options, lse);
    return 0;
}
