/* The C interface of kernels that attnspec judges: a shared library exports one function, attnspec_kernel.
 *
 * docs/check_your_kernel.md leads through it, docs/specification.md says what each operator computes. This file
 * is C99 and C++, and needs DLPack's header alone.
 *
 * Tensors are DLPack's DLTensor with ndim 3: [tokens, heads, dim], the tokens of all sequences packed one after the
 * other. dtype is bfloat16 {kDLBfloat, 16, 1}, float16 {kDLFloat, 16, 1} or float32 {kDLFloat, 32, 1}; byte_offset is
 * 0. strides, never NULL, count elements: strides[2] is 1, the other two may be larger than a packed tensor's, and
 * differ from tensor to tensor. data is aligned to 16 bytes, and so are all rows if they are a multiple of 16 bytes
 * long. What lies between the rows is not the kernel's: it may neither write it nor depend on it.
 *
 * A tensor may have no tokens: its shape is {0, heads, dim}, and its data is not NULL. A tensor may be absent, where a
 * comment says so: its data is NULL and its shape is {0, 0, 0}. Only in workspace_bytes every tensor has data NULL;
 * there shape[1], which is 0, tells an absent tensor from one without tokens.
 *
 * H query heads, Hkv key/value heads, dk and dv features: all of them are read off the shapes. Query head h reads
 * key/value head h / (H / Hkv).
 *
 * A selection is an int32 tensor {kDLInt, 32, 1} [query tokens, heads, slots] with strides like every other's, where
 * the stride of heads may also be the larger one: key blocks, counted from 0 in their sequence, each at most once in a
 * row, in any order unless the limits name one; -1 is an empty slot. There are enough slots for every row. All slots
 * are written: the unused ones with -1.
 *
 * Every output tensor is written whole, and holds other bytes before every call. A query that sees no key has o = 0,
 * lse = -infinity and dq = 0; a key that no query sees has dk = dv = 0.
 *
 * The library is loaded in a process of its own, which is ended when it is no longer needed or a call takes too long.
 * Calls come one at a time. A function returns NULL, or one line that says why it could not do the call; the text must
 * live until the next call. Nothing may be thrown out of it. Tensors are in the memory of the device that the kernel
 * names; every struct, shape and offset is in host memory. Nothing that a call was given may be used after it has
 * returned; on a GPU the work may still be under way on its stream.
 */
#ifndef ATTNSPEC_KERNEL_ABI_H
#define ATTNSPEC_KERNEL_ABI_H

#include <dlpack/dlpack.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Within a version, structs that carry their size may grow at their end, and no other changes. struct_size and
 * abi_version begin AttnspecKernel in every version. */
#define ATTNSPEC_ABI_VERSION 4

/* Operators, as bits. */
enum {
  ATTNSPEC_DENSE = 1,
  ATTNSPEC_SELECTED = 2,
  ATTNSPEC_MOBA_SELECT = 4,
  ATTNSPEC_MOBA = 8,
  ATTNSPEC_NSA_COMPRESS = 16,
  ATTNSPEC_NSA_COMPRESSED = 32,
  ATTNSPEC_WINDOW = 64,
  ATTNSPEC_NSA = 128,
  ATTNSPEC_MSA_SELECT = 256,
  ATTNSPEC_DSA_SELECT = 512,
  ATTNSPEC_QSA_SELECT = 1024
};

/* Formats of q, k and v, as bits. */
enum { ATTNSPEC_BF16 = 1, ATTNSPEC_FP16 = 2, ATTNSPEC_FP32 = 4 };

/* Which past blocks a MoBA query attends to beside its own: the best by score; the most recent; the first and the most
 * recent. */
enum { ATTNSPEC_GATE_TOP_K = 1, ATTNSPEC_GATE_WINDOW = 2, ATTNSPEC_GATE_SINK = 4 };

/* How NSA's phi makes one row out of a compression block, and the activation between the layers of its MLP. */
enum { ATTNSPEC_PHI_MEAN = 1, ATTNSPEC_PHI_LINEAR = 2, ATTNSPEC_PHI_MLP = 4 };
enum { ATTNSPEC_RELU = 1, ATTNSPEC_SILU = 2, ATTNSPEC_GELU = 4 };

/* What a kernel promises, as bits. */
enum {
  ATTNSPEC_EXPORTS_SELECTION = 1, /* moba writes the selection it used. Without it a row is judged on every selection
                                     that it may have used. An operator that does nothing but select must promise it */
  /* Bits. Each of the three needs those before it; what is not promised is not judged (docs/laws.md). */
  ATTNSPEC_DETERMINISTIC = 2,       /* the same call gives the same bits */
  ATTNSPEC_ROW_INDEPENDENT = 4,     /* in calls of equal shape a row's bits depend on nothing but what it reads: not on
                                       other    rows, nor on strides, nor on which head or sequence it is */
  ATTNSPEC_BATCH_INVARIANT = 8,     /* nor on which other sequences and queries are in the call */
  ATTNSPEC_UNORDERED_BACKWARD = 16, /* the three hold for forwards alone: a backward may sum in any order */
  ATTNSPEC_KEEPS_LSE = 32           /* no promise: the kernel keeps lse to itself. It is absent in all calls, and not
                                       judged */
};

/* ---- Parameters: what a call is given ---- */

/* The head of every forward struct. Sequence s has the query tokens q_offsets[s] .. q_offsets[s + 1] - 1, and the key
 * tokens likewise. It may be empty. Query i of it, of Tq, stands at position i + T - Tq among its T keys: the last
 * query at the last key. Under causality it sees the keys up to that position. */
typedef struct AttnspecCall {
  uint64_t struct_size; /* bytes of the struct that this is the head of */
  int64_t num_sequences;
  const int64_t* q_offsets; /* [num_sequences + 1], host memory */
  const int64_t* k_offsets; /* [num_sequences + 1], host memory, in tokens */
  double scale;             /* softmax scale; any finite number of fp32 */
  int32_t causal;           /* 1 or 0 */
  int32_t reserved;         /* 0 */
  void* stream;             /* cudaStream_t that the work goes to; NULL on the host */
  void* workspace;          /* on the kernel's device, holding anything; NULL where workspace_bytes is 0 */
  int64_t workspace_bytes;  /* at least as many as the kernel asked for */
} AttnspecCall;

/* Attention to all keys. */
typedef struct AttnspecDense {
  AttnspecCall call;
  DLTensor q;   /* [query tokens, H, dk] */
  DLTensor k;   /* [key tokens, Hkv, dk] */
  DLTensor v;   /* [key tokens, Hkv, dv] */
  DLTensor o;   /* written: [query tokens, H, dv]; float32 where the kernel declares fp32_out, else the dtype of q */
  DLTensor lse; /* written: [query tokens, H, 1], float32, natural logarithm */
} AttnspecDense;

/* Attention to given key blocks. */
typedef struct AttnspecSelected {
  AttnspecCall call;
  int64_t block;      /* tokens in a key block; the last one of a sequence may be short */
  DLTensor q, k, v;   /* as for dense */
  DLTensor selection; /* [query tokens, H or Hkv, slots]; blocks of the future add nothing under causality */
  DLTensor o, lse;    /* written */
} AttnspecSelected;

/* The blocks that each query of MoBA attends to. */
typedef struct AttnspecMobaSelect {
  AttnspecCall call;  /* its scale is not read */
  int64_t block;      /* tokens in a key block */
  int64_t top_k;      /* blocks per query, its own included */
  int32_t gate;       /* one of ATTNSPEC_GATE_ */
  int32_t reserved;   /* 0 */
  DLTensor q, k;      /* as for dense */
  DLTensor selection; /* written: [query tokens, H, slots] */
} AttnspecMobaSelect;

/* Mixture of block attention: moba_select, and attention to what it selected. */
typedef struct AttnspecMoba {
  AttnspecCall call;
  int64_t block, top_k;
  int32_t gate;
  int32_t reserved;
  DLTensor q, k, v;   /* as for dense */
  DLTensor selection; /* written by the forward, unless ATTNSPEC_EXPORTS_SELECTION is not promised; read by the
                         backward */
  DLTensor o, lse;    /* written */
} AttnspecMoba;

/* The parameters of NSA's phi, or their gradients, in the dtype of the tokens: [rows, sets, columns] with Hkv sets or
 * one for all heads. l tokens of a compression block, f features of a token. Tensors that a kind of phi does not have
 * are absent: all six for mean, all but position and w for linear, w for mlp. */
typedef struct AttnspecPhi {
  DLTensor position; /* [l, sets, f], linear and mlp: added to the tokens of a block */
  DLTensor w;        /* [l f, sets, f], linear; row s f + i reads feature i of token s */
  DLTensor w1;       /* [l f, sets, hidden], mlp; rows likewise */
  DLTensor b1;       /* [1, sets, hidden], mlp */
  DLTensor w2;       /* [hidden, sets, f], mlp */
  DLTensor b2;       /* [1, sets, f], mlp */
} AttnspecPhi;

/* The sizes of NSA. Sequence s has the compressed rows row_offsets[s] .. row_offsets[s + 1] - 1; row i of it is made of
 * its tokens i compress_stride .. i compress_stride + compress_block - 1. */
typedef struct AttnspecNsaSizes {
  const int64_t* row_offsets; /* [num_sequences + 1], host memory */
  int64_t compress_block;     /* tokens of a compression block l */
  int64_t compress_stride;    /* tokens from the start of one to the start of the next */
  int64_t block;              /* tokens of a selection block */
  int64_t top_n;              /* blocks per query, forced ones included */
  int64_t initial_blocks;     /* forced: the first of the sequence */
  int64_t local_blocks;       /* forced: the query's own and those before it */
  int64_t window_size;        /* keys of the window, the query's own included */
  int32_t phi_kind;           /* one of ATTNSPEC_PHI_ */
  int32_t activation;         /* one of ATTNSPEC_RELU, ATTNSPEC_SILU, ATTNSPEC_GELU; of the mlp */
} AttnspecNsaSizes;

/* One compressed row of each compression block. There are no queries: q_offsets is not to be read. */
typedef struct AttnspecNsaCompress {
  AttnspecCall call;
  AttnspecNsaSizes sizes; /* its selection and window are not read */
  DLTensor tokens;        /* [key tokens, Hkv, f] */
  AttnspecPhi phi;
  DLTensor rows; /* written: [compressed rows, Hkv, f], in the dtype of the tokens */
} AttnspecNsaCompress;

/* NSA's attention to compressed rows, of which a query sees those whose tokens all stand at its position or before; and
 * the blocks of tokens that it says are important. */
typedef struct AttnspecNsaCompressed {
  AttnspecCall call;
  AttnspecNsaSizes sizes; /* its window and phi are not read */
  DLTensor q;             /* [query tokens, H, dk] */
  DLTensor k, v;          /* [compressed rows, Hkv, dk and dv] */
  DLTensor selection;     /* written: [query tokens, Hkv, slots]; absent in the backward */
  DLTensor o, lse;        /* written: as for dense */
} AttnspecNsaCompressed;

/* NSA's sliding window: a query at position t sees the keys t - window_size + 1 .. t. */
typedef struct AttnspecWindow {
  AttnspecCall call;
  int64_t window_size; /* keys */
  DLTensor q, k, v;    /* as for dense */
  DLTensor o, lse;     /* written */
} AttnspecWindow;

/* What one branch of NSA reads, and what it gives before its gate. Branches may share their k and v. */
typedef struct AttnspecBranch {
  DLTensor k, v;   /* [key tokens, Hkv, dk and dv] */
  DLTensor o, lse; /* written: as for dense */
} AttnspecBranch;

/* The whole of NSA. Its parts are outputs too, for the backward and for the judge. */
typedef struct AttnspecNsa {
  AttnspecCall call;
  AttnspecNsaSizes sizes;
  DLTensor q; /* [query tokens, H, dk] */
  AttnspecBranch compressed, selected, window;
  DLTensor gates; /* [query tokens, H, 3], after the sigmoid: of the compressed, selected and window branch */
  AttnspecPhi phi_k, phi_v;
  DLTensor k_compressed, v_compressed; /* written: [compressed rows, Hkv, dk and dv], in the dtype of q */
  DLTensor selection;                  /* written: [query tokens, Hkv, slots] */
  DLTensor o;                          /* written: as for dense */
} AttnspecNsa;

/* The blocks that each index head of MSA attends to: its own and those whose best key it likes most. There is an index
 * head for each kv head of the attention that follows. */
typedef struct AttnspecMsaSelect {
  AttnspecCall call;  /* its scale is not read, and it is causal; so for all selectors with an indexer */
  int64_t block;      /* tokens in a key block */
  int64_t top_k;      /* blocks per query, its own included */
  DLTensor qi;        /* [query tokens, index heads, dk] */
  DLTensor ki;        /* [key tokens, 1, dk] */
  DLTensor selection; /* written: [query tokens, index heads, slots] */
} AttnspecMsaSelect;

/* The tokens that each query of DSA attends to. A selection has blocks of one token, and one row for all heads. */
typedef struct AttnspecDsaSelect {
  AttnspecCall call;
  int64_t top_k;      /* tokens per query */
  DLTensor qi;        /* [query tokens, index heads, dk] */
  DLTensor ki;        /* [key tokens, 1, dk] */
  DLTensor w;         /* [query tokens, 1, index heads], float32: weights of the heads, of any sign */
  DLTensor selection; /* written: [query tokens, 1, slots] */
} AttnspecDsaSelect;

/* The blocks that each query of QSA attends to: the best complete ones, and that which it stands in where it sees not
 * all of it. A sequence of T key tokens has T / block rows of kbar, rounded down. Its first row is the number of rows
 * of all sequences before it. */
typedef struct AttnspecQsaSelect {
  AttnspecCall call;
  int64_t block;      /* tokens in a block */
  int64_t top_k;      /* complete blocks per query */
  DLTensor qi;        /* [query tokens, index heads, dk] */
  DLTensor kbar;      /* [complete blocks of all sequences, 1, dk] */
  DLTensor selection; /* written: [query tokens, 1, slots]; slots has room for one block beside top_k */
} AttnspecQsaSelect;

/* ---- Parameters of the backward: what the forward was given and what it gave, now to be read; and the gradients ----
 *
 * Gradients are written, have the shape of their tensor and the dtype of o, but for d_o and d_rows, which are given, in
 * the dtype of q. dk and dv are summed over the query heads of a group. Nothing flows through a selection. */

typedef struct AttnspecDenseBackward {
  uint64_t struct_size; /* bytes of this struct */
  const AttnspecDense* forward;
  DLTensor d_o; /* given: [query tokens, H, dv] */
  DLTensor dq, dk, dv;
} AttnspecDenseBackward;

typedef struct AttnspecSelectedBackward {
  uint64_t struct_size;
  const AttnspecSelected* forward;
  DLTensor d_o, dq, dk, dv;
} AttnspecSelectedBackward;

typedef struct AttnspecMobaBackward {
  uint64_t struct_size;
  const AttnspecMoba* forward;
  DLTensor d_o, dq, dk, dv;
} AttnspecMobaBackward;

typedef struct AttnspecNsaCompressBackward {
  uint64_t struct_size;
  const AttnspecNsaCompress* forward; /* its rows are not to be read */
  DLTensor d_rows;                    /* given: [compressed rows, Hkv, f] */
  DLTensor d_tokens;
  AttnspecPhi d_phi;
} AttnspecNsaCompressBackward;

typedef struct AttnspecNsaCompressedBackward {
  uint64_t struct_size;
  const AttnspecNsaCompressed* forward;
  DLTensor d_o, dq, dk, dv; /* dk and dv of the compressed rows */
} AttnspecNsaCompressedBackward;

typedef struct AttnspecWindowBackward {
  uint64_t struct_size;
  const AttnspecWindow* forward;
  DLTensor d_o, dq, dk, dv;
} AttnspecWindowBackward;

typedef struct AttnspecBranchGradients {
  DLTensor dk, dv; /* of the branch's own k and v, also where branches share theirs */
} AttnspecBranchGradients;

typedef struct AttnspecNsaBackward {
  uint64_t struct_size;
  const AttnspecNsa* forward; /* its o is absent */
  DLTensor d_o;               /* given */
  DLTensor dq;                /* summed over the branches */
  AttnspecBranchGradients d_compressed, d_selected, d_window;
  DLTensor d_gates;
  DLTensor dk_compressed, dv_compressed; /* of the compressed rows; d_compressed is of the tokens they are made of */
  AttnspecPhi d_phi_k, d_phi_v;
} AttnspecNsaBackward;

/* ---- The kernel ---- */

/* The values of a size that a kernel can do. 0: no limit. */
typedef struct AttnspecLimit {
  int64_t smallest, largest, multiple_of;
  int64_t set[8];       /* one of these, of which those that are 0 do not count */
  int32_t power_of_two; /* 1: no other */
  int32_t reserved;     /* 0 */
} AttnspecLimit;

/* Which softmax scales a kernel can do. */
enum { ATTNSPEC_SCALE_ANY = 0, ATTNSPEC_SCALE_POSITIVE = 1, ATTNSPEC_SCALE_DEFAULT = 2 /* dk^-1/2 */ };

/* Where every sequence must have as many queries as keys: nowhere, in every call, in causal ones, in backwards. */
enum {
  ATTNSPEC_EQUAL_LENGTHS_NONE = 0,
  ATTNSPEC_EQUAL_LENGTHS_ALL = 1,
  ATTNSPEC_EQUAL_LENGTHS_CAUSAL = 2,
  ATTNSPEC_EQUAL_LENGTHS_BACKWARD = 3
};

/* Which heads a selection that is given to `selected` is of. */
enum { ATTNSPEC_SELECTION_ANY = 0, ATTNSPEC_SELECTION_PER_HEAD = 1, ATTNSPEC_SELECTION_PER_KV_HEAD = 2 };

/* The order of a row of a selection that is given to `selected`, each with what those before it have: empty slots
 * anywhere; empty slots last; blocks ascending; every query with a key has its own block, and it stands last. */
enum { ATTNSPEC_ORDER_ANY = 0, ATTNSPEC_ORDER_PACKED = 1, ATTNSPEC_ORDER_ASCENDING = 2, ATTNSPEC_ORDER_OWN_LAST = 3 };

/* What a kernel cannot do, as data, so that it is known before there are inputs. All zero: it can do everything. */
typedef struct AttnspecLimits {
  uint32_t dtypes; /* of ATTNSPEC_BF16 ..., those it can do; 0: all */
  uint32_t gates;  /* of ATTNSPEC_GATE_, those it can do; 0: all */
  uint32_t phis;   /* of ATTNSPEC_PHI_, those it can do; 0: all */
  int32_t only_causal;
  int32_t only_equal_dims;      /* dk = dv */
  int32_t only_equal_lengths;   /* one of ATTNSPEC_EQUAL_LENGTHS_ */
  int32_t only_equal_blocks;    /* of NSA: compress_block = compress_stride = block */
  int32_t no_empty_sequences;   /* every sequence has a query and a key */
  int32_t no_rows_without_keys; /* no sequence has queries without keys, nor a causal one more queries than keys */
  int32_t scale;                /* one of ATTNSPEC_SCALE_ */
  int32_t selection_per;        /* one of ATTNSPEC_SELECTION_ */
  int32_t selection_order;      /* one of ATTNSPEC_ORDER_: what the kernel needs */
  int32_t only_forced_blocks;   /* of NSA: 1: initial_blocks and local_blocks are those below */
  int32_t reserved;             /* 0 */
  int64_t initial_blocks, local_blocks;
  AttnspecLimit dk, dv, group; /* group: H / Hkv */
  AttnspecLimit block, top_k;  /* of selected: slots; of NSA: selection blocks and top_n */
  AttnspecLimit compress_block, window_size;
  AttnspecLimit queries, keys; /* of a sequence that has some */
  AttnspecLimit sequences;
} AttnspecLimits;

/* A kernel: data and functions, constant for as long as the library is loaded. */
typedef struct AttnspecKernel {
  uint64_t struct_size;   /* sizeof(AttnspecKernel) */
  int32_t abi_version;    /* ATTNSPEC_ABI_VERSION */
  int32_t device_type;    /* kDLCPU or kDLCUDA: where tensors and workspace are */
  const char* name;       /* letters, digits and _ */
  const char* summary;    /* one line */
  const char* arithmetic; /* what it rounds beside the plain arithmetic of its inputs' dtype, as options:
                             "rounded_sum+fp32_out", or "" (./attnspec list arithmetic, docs/arithmetic.md) */
  uint32_t operators;     /* of ATTNSPEC_DENSE ...; each needs its forward function */
  uint32_t promises;      /* of ATTNSPEC_EXPORTS_SELECTION ... */

  /* Bytes of workspace that a call needs; below 0 is an error. op: one operator; params: the operator's forward struct,
   * also for a backward, with data NULL in its tensors, whose strides are those of packed ones. It is asked of
   * functions that the kernel has. NULL: no call needs any. */
  int64_t (*workspace_bytes)(uint32_t op, int32_t is_backward, const void* params);

  /* A forward for each operator of `operators`; a backward may be NULL: forward only. */
  const char* (*dense)(const AttnspecDense*);
  const char* (*dense_backward)(const AttnspecDenseBackward*);
  const char* (*selected)(const AttnspecSelected*);
  const char* (*selected_backward)(const AttnspecSelectedBackward*);
  const char* (*moba_select)(const AttnspecMobaSelect*);
  const char* (*moba)(const AttnspecMoba*);
  const char* (*moba_backward)(const AttnspecMobaBackward*);
  const char* (*nsa_compress)(const AttnspecNsaCompress*);
  const char* (*nsa_compress_backward)(const AttnspecNsaCompressBackward*);
  const char* (*nsa_compressed)(const AttnspecNsaCompressed*);
  const char* (*nsa_compressed_backward)(const AttnspecNsaCompressedBackward*);
  const char* (*window)(const AttnspecWindow*);
  const char* (*window_backward)(const AttnspecWindowBackward*);
  const char* (*nsa)(const AttnspecNsa*);
  const char* (*nsa_backward)(const AttnspecNsaBackward*);
  const char* (*msa_select)(const AttnspecMsaSelect*);
  const char* (*dsa_select)(const AttnspecDsaSelect*);
  const char* (*qsa_select)(const AttnspecQsaSelect*);

  AttnspecLimits limits;
} AttnspecKernel;

/* What a library exports. Called once, or again with the same result. */
#define ATTNSPEC_EXPORT __attribute__((visibility("default")))
ATTNSPEC_EXPORT const AttnspecKernel* attnspec_kernel(void);

#ifdef __cplusplus
}
#endif

#endif
