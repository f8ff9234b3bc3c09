/* Hostile kernels: the example kernel, made wrong in a way that a judge could fail to see. -DADVERSARY_... chooses one;
 * adversaries_test.cpp says what is to become of it. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define attnspec_kernel honest_kernel /* that of the example */
#include "verify/examples/c/dense_moba.c"
#undef attnspec_kernel

/* Not every adversary needs these. */
__attribute__((unused)) static int32_t* blocks_of(const DLTensor* selection, int64_t token, int64_t h) {
  return (int32_t*)selection->data + token * selection->strides[0] + h * selection->strides[1];
}

/* Makes one row wrong by a little: the last row of o becomes its first. */
__attribute__((unused)) static void spoil(const DLTensor* o) {
  const int64_t last = o->shape[0] - 1;
  if (last < 1) return;
  for (int64_t h = 0; h < o->shape[1]; ++h)
    for (int64_t d = 0; d < o->shape[2]; ++d) store(o, last, h, d, load(o, 0, h, d));
}

#if defined(ADVERSARY_KEEPS_BY_ADDRESS) || defined(ADVERSARY_KEEPS_BY_SHAPE)

/* Answers a call with what it answered before where the key is the same. */
typedef struct Kept {
  const void* address;
  int64_t shape[3];
  int64_t keys;
  float *o, *lse;
} Kept;
static Kept kept[4096];
static int num_kept;

#define WHAT_IT_DOES "keeps results"

static int is_same(const Kept* k, const AttnspecDense* p) {
#ifdef ADVERSARY_KEEPS_BY_ADDRESS
  if (k->address != p->q.data) return 0;
#endif
  return k->keys == p->k.shape[0] && k->shape[2] == p->v.shape[2] && k->shape[0] == p->q.shape[0] &&
         k->shape[1] == p->q.shape[1];
}

static float* copy_of(const DLTensor* t) {
  float* copy = malloc((size_t)(t->shape[0] * t->shape[1] * t->shape[2] + 1) * sizeof(float));
  float* to = copy;
  for (int64_t token = 0; token < t->shape[0]; ++token)
    for (int64_t h = 0; h < t->shape[1]; ++h)
      for (int64_t d = 0; d < t->shape[2]; ++d) *to++ = load(t, token, h, d);
  return copy;
}

static void put_back(const float* from, const DLTensor* t) {
  for (int64_t token = 0; token < t->shape[0]; ++token)
    for (int64_t h = 0; h < t->shape[1]; ++h)
      for (int64_t d = 0; d < t->shape[2]; ++d) store(t, token, h, d, *from++);
}

static const char* hostile_dense(const AttnspecDense* p) {
  for (int i = 0; i < num_kept; ++i) {
    if (!is_same(kept + i, p)) continue;
    put_back(kept[i].o, &p->o);
    put_back(kept[i].lse, &p->lse);
    return NULL;
  }
  dense(p);
  if (num_kept < 4096) {
    const Kept k = {
        p->q.data, {p->q.shape[0], p->q.shape[1], p->v.shape[2]}, p->k.shape[0], copy_of(&p->o), copy_of(&p->lse)};
    kept[num_kept++] = k;
  }
  return NULL;
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_KEEPS_POINTERS)

/* Reads the keys where the first call of the same sizes had them, as a captured graph does. */
#define WHAT_IT_DOES "keeps the addresses of its first calls"
typedef struct Plan {
  int64_t sizes[8];
  void* keys;
} Plan;

static const char* hostile_dense(const AttnspecDense* p) {
  static Plan plans[4096];
  static int num_plans;
  const Plan plan = {{p->q.shape[0], p->q.shape[1], p->q.shape[2], p->k.shape[0], p->k.shape[1], p->v.shape[2],
                      p->k.strides[0], p->k.dtype.bits},
                     p->k.data};
  AttnspecDense replayed = *p;
  int i = 0;
  while (i < num_plans && memcmp(plans[i].sizes, plan.sizes, sizeof plan.sizes) != 0) ++i;
  if (i == num_plans && num_plans < 4096) plans[num_plans++] = plan;
  if (i < num_plans) replayed.k.data = plans[i].keys;
  return dense(&replayed);
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_KNOWS_THE_FILL)

#define WHAT_IT_DOES "is right where its outputs were filled as a judge would fill them"
static const char* hostile_dense(const AttnspecDense* p) {
  const unsigned char* fill = p->o.data;
  const int is_judged = p->o.shape[0] > 0 && (fill[0] == 0xff || fill[0] == 0x5a) && fill[0] == fill[1];
  dense(p);
  if (!is_judged) spoil(&p->o);
  return NULL;
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_LEAVES_EARLY)

#define WHAT_IT_DOES "ends its process, with success, where there is much to do"
static const char* hostile_dense(const AttnspecDense* p) {
  if (p->q.shape[0] > 40) _exit(0);
  return dense(p);
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_WRITES_OUTSIDE)

#define WHAT_IT_DOES "writes a row after its last"
static const char* hostile_dense(const AttnspecDense* p) {
  dense(p);
  memset(address(&p->o, p->o.shape[0], 0, 0), 0, 2);
  return NULL;
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_READS_OUTSIDE)

#define WHAT_IT_DOES "lets what lies behind the keys decide"
static const char* hostile_dense(const AttnspecDense* p) {
  const float behind = load(&p->k, p->k.shape[0], 0, 0);
  dense(p);
  if (behind == behind && p->k.shape[0] > 0) spoil(&p->o);
  return NULL;
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_DENSE_WHEN_SMALL)

#define WHAT_IT_DOES "attends to everything where there is little"
static const char* hostile_moba(const AttnspecMoba* p) {
  const AttnspecDense all = {p->call, p->q, p->k, p->v, p->o, p->lse};
  moba(p);
  return p->k.shape[0] < 512 ? dense(&all) : NULL;
}
static void make_hostile(AttnspecKernel* k) { k->moba = hostile_moba; }

#elif defined(ADVERSARY_DECLARES_TOO_MUCH)

/* Three bits fewer than bf16 has, under all arithmetic options that there are. */
#define WHAT_IT_DOES "hides coarse arithmetic behind its declaration"
static const char* hostile_dense(const AttnspecDense* p) {
  dense(p);
  for (int64_t token = 0; token < p->o.shape[0]; ++token)
    for (int64_t h = 0; h < p->o.shape[1]; ++h)
      for (int64_t d = 0; d < p->o.shape[2]; ++d) {
        int exponent;
        const float mantissa = frexpf(load(&p->o, token, h, d), &exponent);
        store(&p->o, token, h, d, ldexpf(roundf(mantissa * 32) / 32, exponent));
      }
  return NULL;
}
static void make_hostile(AttnspecKernel* k) {
  k->arithmetic = "rounded_sum+rounded_means+rounded_partials";
  k->dense = hostile_dense;
}

#elif defined(ADVERSARY_SKIPS_LIGHT_BLOCKS)

/* Leaves out, of what it says it selected, the blocks whose keys weigh less than 2^-9 of the heaviest. */
#define WHAT_IT_DOES "skips selected blocks that seem to weigh nothing"
static const char* hostile_moba(const AttnspecMoba* p) {
  const Tensors tensors = {&p->q, &p->k, &p->v, &p->o, &p->lse};
  const int64_t heads = p->q.shape[1], slots = p->selection.shape[2];
  int32_t* blocks = malloc((size_t)(slots + 1) * sizeof(int32_t));
  moba(p);
  for (int64_t n = 0; n < p->call.num_sequences; ++n) {
    const Sequence s = sequence(&p->call, n);
    for (int64_t i = 0; i < s.num_queries; ++i) {
      const int64_t visible = visible_keys(&p->call, s, i);
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t token = s.q_begin + i, g = h / (heads / p->k.shape[1]);
        const int32_t* chosen = blocks_of(&p->selection, token, h);
        const float lse = load(&p->lse, token, h, 0);
        for (int64_t slot = 0; slot < slots; ++slot) {
          float heaviest = -INFINITY;
          for (int64_t j = chosen[slot] * p->block;
               chosen[slot] >= 0 && j < visible && j < (chosen[slot] + 1) * p->block; ++j) {
            const float score = (float)p->call.scale * dot(&p->q, token, h, &p->k, s.k_begin + j, g);
            if (score > heaviest) heaviest = score;
          }
          blocks[slot] = heaviest < lse - 9 * 0.6931f ? -1 : chosen[slot];
        }
        attend(&tensors, token, h, s, visible, blocks, slots, p->block, (float)p->call.scale, p->call.workspace);
      }
    }
  }
  free(blocks);
  return NULL;
}
static void make_hostile(AttnspecKernel* k) { k->moba = hostile_moba; }

#elif defined(ADVERSARY_REFUSES)

#define WHAT_IT_DOES "refuses what is large, though its limits do not say so"
static const char* hostile_dense(const AttnspecDense* p) {
  return p->q.shape[0] > 40 ? "this size is not supported" : dense(p);
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_LIMITS_ITSELF)

#define WHAT_IT_DOES "declares limits that leave nothing to judge"
static void make_hostile(AttnspecKernel* k) { k->limits.dk.multiple_of = 1 << 20; }

#elif defined(ADVERSARY_HIDES_BEHIND_TIES)

/* Takes, where it can, the most recent past block instead of the best, as if they were nearly equal. */
#define WHAT_IT_DOES "chooses blocks by their age"
static const char* hostile_moba(const AttnspecMoba* p) {
  const Tensors tensors = {&p->q, &p->k, &p->v, &p->o, &p->lse};
  const int64_t heads = p->q.shape[1], slots = p->selection.shape[2];
  moba(p);
  for (int64_t n = 0; n < p->call.num_sequences; ++n) {
    const Sequence s = sequence(&p->call, n);
    for (int64_t i = 0; i < s.num_queries; ++i) {
      const int64_t visible = visible_keys(&p->call, s, i), token = s.q_begin + i;
      for (int64_t h = 0; h < heads && visible > 0 && p->call.causal; ++h) {
        int32_t* chosen = blocks_of(&p->selection, token, h);
        for (int64_t slot = 1; slot < slots && chosen[slot] >= 0; ++slot) chosen[slot] = chosen[0] - (int32_t)slot;
        attend(&tensors, token, h, s, visible, chosen, slots, p->block, (float)p->call.scale, p->call.workspace);
      }
    }
  }
  return NULL;
}
static void make_hostile(AttnspecKernel* k) { k->moba = hostile_moba; }

#elif defined(ADVERSARY_WRONG_NOW_AND_THEN)

#define WHAT_IT_DOES "is wrong once in fifty calls"
static const char* hostile_dense(const AttnspecDense* p) {
  static int calls;
  dense(p);
  if (++calls % 50 == 0) spoil(&p->o);
  return NULL;
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_CONFUSED_BY_DECODING)

#define WHAT_IT_DOES "keeps the list of tiles of a call with one query, and takes it for those of a call with many"
static const char* hostile_dense(const AttnspecDense* p) {
  static int has_decoded;
  dense(p);
  if (p->q.shape[0] == 1) has_decoded = 1;
  if (has_decoded && p->q.shape[0] > 60) spoil(&p->o);
  return NULL;
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_TIRES)

#define WHAT_IT_DOES "does its work in its first calls, and nothing when they are over, which is fast"
static const char* hostile_dense(const AttnspecDense* p) {
  static int calls;
  return ++calls > 3 ? NULL : dense(p);
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#elif defined(ADVERSARY_TRUSTS_ITS_WORKSPACE)

/* Keeps a number of its first call in the workspace, as a kernel might keep mean keys there; a caller uses one
 * workspace for all of its calls. */
#define WHAT_IT_DOES "takes what its last call left in the workspace for its own"
static const char* hostile_dense(const AttnspecDense* p) {
  static const float mark = 1234567;
  float* workspace = p->call.workspace;
  const int64_t floats = p->call.workspace_bytes / (int64_t)sizeof(float);
  const int is_marked = floats > 2 && workspace[floats - 1] == mark;
  const float first = p->v.shape[0] > 0 ? load(&p->v, 0, 0, 0) : 0, kept = is_marked ? workspace[floats - 2] : first;
  dense(p);
  if (floats > 2) workspace[floats - 1] = mark, workspace[floats - 2] = kept;
  if (kept != first) spoil(&p->o);
  return NULL;
}
static void make_hostile(AttnspecKernel* k) { k->dense = hostile_dense; }

#endif

static AttnspecKernel hostile;

const AttnspecKernel* attnspec_kernel(void) {
  hostile = *honest_kernel();
  hostile.name = "adversary";
  hostile.summary = WHAT_IT_DOES;
  make_hostile(&hostile);
  return &hostile;
}
