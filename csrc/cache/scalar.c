#include "levels.h"

#define KERNELS cache_kernels_scalar
#include "../cpu/vector.h"
#include "score.h"
#include "attend.h"
