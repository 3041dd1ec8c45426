/* Compiled options as the public header has them. */
#ifndef LZPENALTY_API_EXPORT_H
#define LZPENALTY_API_EXPORT_H

#include "../include/lzpenalty.h"
#include "../lz/options.h"

_Static_assert(sizeof(lz_mark) == sizeof(lzpenalty_mark), "marks are laid out alike here and there");

/* The marks of *c are those of *p. */
static inline void export_options(const lz_penalty *p, lzpenalty_options *c)
{
    c->size = sizeof *c;
#define EXPORT_FLOAT(name) c->name = p->name;
#define EXPORT_INT(name) c->name = p->name;
#define EXPORT_COST(name) c->name = p->name;
#define EXPORT_RANGE(name) c->name = (lzpenalty_range){p->name.from, p->name.to};
#define EXPORT_MARKS(name) c->name = (lzpenalty_marks){(const lzpenalty_mark *)p->name.mark, (size_t)p->name.n};
#define OPTION(kind, name, ...) EXPORT_##kind(name)
#include "../lz/options.def"
}

#endif
